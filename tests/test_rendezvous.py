"""The rendezvous of the workers: they wait for each other, and nothing else is taken for one."""

import json
import re
import socket
import threading

import pytest

from daso_tf.commands.workers import cluster
from daso_tf.platform.last_step import LastStep
from daso_tf.platform.rendezvous import Worker, meet


def free_addresses(count):
    return json.loads(cluster(count)[0]["TF_CONFIG"])["cluster"]["worker"]


class Meeting(threading.Thread):
    """A worker that meets the others in a thread of its own."""

    def __init__(self, addresses, rank, identity="run", **arguments):
        super().__init__(daemon=True)
        self.worker, self.identity, self.arguments = Worker(addresses, rank), identity, arguments
        self.connections, self.error = None, None
        self.start()

    def run(self):
        try:
            self.connections = meet(self.worker, 60, self.identity, **self.arguments)
        except Exception as error:
            self.error = error

    def end(self):
        self.join(60)
        assert not self.is_alive()
        if self.error:
            raise self.error
        return self.connections


def stranger(address, sent=b""):
    """Connects to the chief as soon as it listens, and sends something."""
    host, port = address.split(":")
    while True:
        try:
            connection = socket.create_connection((host, int(port)), timeout=60)
            break
        except ConnectionRefusedError:
            continue
    connection.sendall(sent)
    return connection


def answer(connection):
    """Everything that the chief sends before it closes the connection."""
    with connection:
        try:
            return b"".join(iter(lambda: connection.recv(4096), b""))
        except ConnectionResetError:
            return b""


def test_workers_wait_for_each_other():
    addresses = free_addresses(3)
    others = [Meeting(addresses, rank) for rank in (1, 2)]  # the chief comes last
    chief = Meeting(addresses, 0).end()
    assert sorted(chief) == [1, 2]
    for other in others:
        (back,) = other.end().values()
        chief[other.worker.rank].sendall(b"x")
        assert back.recv(1) == b"x"


@pytest.mark.parametrize(("rank", "missing"), [(0, 1), (1, 0)])
def test_missing_worker_is_named(rank, missing):
    addresses = free_addresses(2)
    with pytest.raises(TimeoutError, match=addresses[missing]):
        meet(Worker(addresses, rank), wait_seconds=0.1)


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"7\n", b"refused '7', which is not the line of a worker\n"),
        (b"daso_tf worker 1\n", b"refused 'daso_tf worker 1', which"),  # version 0.1
        (b"daso_tf-1 run 1\nmore", b"refused 'daso_tf-1 run 1\\nmore', which"),
        (b"daso_tf-1 run 0\n", b"refused worker 0, but there are 1 to 1\n"),
        (b"daso_tf-1 run 2\n", b"refused worker 2, but"),
        (b"daso_tf-1 run -1\n", b"refused worker -1, but"),
        (b"daso_tf-1 run \xff\n", b"refused worker"),
        (b"daso_tf-1 other 1\n", b"refused worker 1 of another run, or with other flags\n"),
        (b"\0" * 257, b"refused '"),
        (b"GET / HTTP/1.1\r\n\r\n", b"refused 'GET / HTTP/1.1"),
    ],
)
def test_strangers_are_refused_and_not_counted(sent, said):
    addresses = free_addresses(2)
    chief = Meeting(addresses, 0)
    silent = stranger(addresses[0])  # blocks nobody
    assert answer(stranger(addresses[0], sent)).startswith(said)
    assert list(Meeting(addresses, 1).end().keys()) == [0]
    assert list(chief.end().keys()) == [1]
    assert answer(silent) == b""


def test_what_never_ends_is_not_read():
    addresses = free_addresses(2)
    chief = Meeting(addresses, 0)
    with pytest.raises(ConnectionError), stranger(addresses[0]) as endless:
        while True:
            endless.sendall(b"0" * 65536)
    Meeting(addresses, 1).end()
    chief.end()


def test_a_rank_is_taken_once_until_its_worker_has_left():
    addresses = free_addresses(3)
    chief = Meeting(addresses, 0)
    first = stranger(addresses[0], b"daso_tf-1 run 1\n")
    second = answer(stranger(addresses[0], b"daso_tf-1 run 1\n"))
    assert second.startswith(b"taken worker 1, which 127.0.0.1:")
    again = Meeting(addresses, 1)  # tries until it is free
    first.close()
    Meeting(addresses, 2).end()
    again.end()
    assert sorted(chief.end()) == [1, 2]


def test_silent_connections_and_the_wait_itself_end_in_time():
    addresses, seconds = free_addresses(2), [0.0]
    chief = Meeting(addresses, 0, now=lambda: seconds[0])
    silent = stranger(addresses[0])
    assert b"'7'" in answer(stranger(addresses[0], b"7\n"))
    seconds[0] = 11.0
    assert b"'8'" in answer(stranger(addresses[0], b"8\n"))  # the chief looks at its clock
    assert answer(silent) == b"refused no line in time\n"
    seconds[0] = 60.0
    stranger(addresses[0]).close()
    with pytest.raises(TimeoutError) as error:
        chief.end()
    message = str(error.value)
    assert f"After 60 s these workers are missing: {addresses[1]}." in message
    assert re.search(r"127.0.0.1:\d+ sent '7', which is not the line of a worker", message)


def test_a_refused_worker_stops_and_says_why():
    addresses = free_addresses(2)
    chief = Meeting(addresses, 0, identity="one")
    with pytest.raises(ValueError, match=r"worker 1 of another run.*same flags"):
        Meeting(addresses, 1, identity="two").end()
    Meeting(addresses, 1, identity="one").end()
    chief.end()


def test_another_program_at_the_address_of_the_chief_is_named():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        worker = Meeting([address, "127.0.0.1:1"], 1)
        other = server.accept()[0]
        other.sendall(b"220 mail.example.com\n" * 100)
        other.close()
        # The second time it is the chief.
        chief = server.accept()[0]
        assert chief.recv(100) == b"daso_tf-1 run 1\n"
        chief.sendall(b"welcome\n")
        assert list(worker.end().keys()) == [0]


def test_the_chief_listens_on_its_own_address_only():
    addresses = [f"127.0.0.1:{free_addresses(1)[0].split(':')[1]}", "127.0.0.1:1"]
    chief = Meeting(addresses, 0)
    silent = stranger(addresses[0])
    port = int(addresses[0].split(":")[1])
    with socket.create_server(("127.0.0.2", port)):  # the port is free at other addresses
        pass
    silent.close()
    assert chief.is_alive()
    with stranger(addresses[0], b"daso_tf-1 run 1\n"):
        chief.end()


# The last step -----------------------------------------------------------------------------------


@pytest.fixture
def three():
    """The last steps of three workers, connected."""
    pairs = {rank: socket.socketpair() for rank in (1, 2)}
    steps = [LastStep() for _ in range(3)]
    steps[0].connect({rank: pair[0] for rank, pair in pairs.items()})
    for rank, pair in pairs.items():
        steps[rank].connect({0: pair[1]})
    yield steps
    for pair in pairs.values():
        for end in pair:
            end.close()


def train(last_step, barrier, counts, rank, at=None, asks=False):
    """Executes steps that end when all workers take part, as collectives do."""
    for number in range(1, 1000):
        last_step.begin()
        if number == at and asks:
            assert last_step.request()
        barrier.wait(60)
        counts[rank] = number
        if last_step.reached():
            return
    raise AssertionError("never stopped")


@pytest.mark.parametrize("asking", [(0,), (2,), (0, 1, 2)])
def test_all_workers_stop_after_the_same_step(three, asking):
    barrier, counts = threading.Barrier(3), {}
    threads = [
        threading.Thread(
            target=train, args=(last_step, barrier, counts, rank, 5, rank in asking), daemon=True
        )
        for rank, last_step in enumerate(three)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert len(set(counts.values())) == 1 and counts[0] >= 6
    assert [last_step.requested for last_step in three] == [rank in asking for rank in range(3)]
    assert not three[asking[0]].request()  # the second time the process ends at once


def test_without_all_workers_nobody_waits_for_an_agreement():
    ours, theirs = socket.socketpair()
    chief = LastStep()
    chief.connect({1: ours})
    chief.begin()
    assert chief.request()
    assert theirs.recv(100) == b"freeze\n"
    theirs.close()  # instead of an answer
    chief.begin()  # does not wait
    assert not chief.reached()
    assert not chief.request()
