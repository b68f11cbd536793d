"""Disturbs short runs at random moments and compares how they end with an undisturbed run.

    python benchmarks/endurance.py --output=runs/endurance
    python benchmarks/endurance.py --output=runs/two --tries=10 \
        --method="two workers: --workers=2 --pseudo_labeler=daso"
    python benchmarks/endurance.py --output=runs/soak --soak=20000

Each try starts a run or continues it, and disturbs it at a random moment of the time that a whole
run takes, import and export included. With --workers=N, `daso-tf workers N` runs, and the launcher
or one of its workers is disturbed. The disturbances:

- kill: SIGKILL
- term: SIGTERM. The run must end with code 143 and one line.
- disk: from then on, files cannot grow beyond a random size, as on a full disk (RLIMIT_FSIZE, which
  needs no rights and no mount; the error is EFBIG instead of ENOSPC). The run must end with one
  line and without a traceback.

When a run is finished, its last checkpoint and its `results.json` must equal, bit for bit, those of
the undisturbed run. Prints a table with tries and failures and writes it to `endurance.md`; folders
of runs that failed are kept. Exit code: 1 if there is a failure.

--soak=STEPS trains one long run instead, without disturbance, samples its memory, open files and
threads, prints a table, and writes `soak.md` and `soak.png`.

Needs Linux. All other flags are those of `daso-tf train`.
"""

import contextlib
import json
import os
import random
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tqdm
from absl import flags
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from daso_tf.settings.flag import Flag, as_text, integer, string
from daso_tf.settings.flags import TRAIN
from daso_tf.settings.settings import Settings, parse

METHODS = [
    "fixmatch + daso: --pseudo_labeler=daso",
    "mixmatch: --learner=mixmatch --pseudo_labeler=linear",
    "remixmatch: --learner=remixmatch --pseudo_labeler=linear",
    "fixmatch + darp: --pseudo_labeler=darp",
    "fixmatch + crest: --pseudo_labeler=crest --generation_steps=24",
    "fixmatch + abc: --pseudo_labeler=linear --balanced_head=abc",
    "fixmatch + freematch: --pseudo_labeler=linear --threshold=freematch",
    "two workers: --workers=2 --pseudo_labeler=daso",
]
# The digits with the smallest network: a step takes some milliseconds.
SMALL = shlex.split(
    "--dataset=digits --labeled_head=6 --labeled_imbalance=3 --unlabeled_head=12 "
    "--unlabeled_imbalance=3 --validation_size=20 --resolution=8 --horizontal_flip=false "
    "--cutout_size=2 --encoder=wrn_10_1 --batch_size=8 --unlabeled_ratio=2 --queue_size=4 "
    "--pretrain_steps=2 --distribution_period=2 --confidence_threshold=0.1 --jit_compile=false "
    "--steps=60 --evaluate_every=10"
)
OWN_FLAGS = (
    string("output", None, "Required: folder of the runs and the tables."),
    Flag(
        "method",
        METHODS,
        "NAME: FLAGS, once per method.",
        flags.DEFINE_multi_string,
        shown_default="all of METHODS in this file",
    ),
    integer("tries", 50, "[1, inf)", "Disturbances per method."),
    integer("draws", 0, "[0, inf)", "Seed of kinds and moments of the disturbances."),
    integer("soak", 0, "[0, inf)", "Steps of one long run; 0: disturb short runs."),
    integer("interval", 5, "[1, inf)", "Seconds between the samples of --soak."),
)
KINDS = ("kill", "term", "disk")
LONGEST_SECONDS = 600  # for a process to end after its disturbance


class Failure(Exception):  # noqa: N818  # it is a result
    """A run did not do what it must."""


class Method:
    """A command line that is run again and again.

    Args:
        flags: Those of the train command, and optionally `--workers=N`.
    """

    def __init__(self, flags: list[str]):
        workers = [flag for flag in flags if flag.startswith("--workers=")]
        self.workers = int(workers[-1].partition("=")[2]) if workers else 0
        self.flags = [flag for flag in flags if flag not in workers]

    @contextlib.contextmanager
    def started(self, folder: Path) -> Iterator[subprocess.Popen]:
        """Starts or continues the run of a folder; no process of it outlives this context."""
        module = ["daso_tf.workers", str(self.workers)] if self.workers else ["daso_tf.train"]
        process = subprocess.Popen(
            [sys.executable, "-m", *module, *self.flags, f"--model_dir={folder}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the group of its own session
            process.wait()


def main(arguments: list[str]) -> int:
    """Disturbs the runs of all methods, or trains a long one."""
    if {"--help", "-h"} & set(arguments):
        print(__doc__)
        for flag in OWN_FLAGS:
            print(f"  --{flag.name}  {flag.text} [{flag.shown_default or flag.default}]")
        return 0
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # leaves no processes
    settings = parsed(arguments)
    output = Path(settings.output)
    output.mkdir(parents=True, exist_ok=True)
    names = sorted(settings.given & TRAIN.keys())
    given = [f"--{name}={as_text(settings[name])}" for name in names]
    if settings.soak:
        long = ["--evaluate_every=200", *given, f"--steps={settings.soak}"]
        return soak(output, [*SMALL, *long], settings.interval)
    draws = random.Random(settings.draws)
    rows, failures = [], []
    progress = tqdm.tqdm(total=settings.tries * len(settings.method), desc="tries")
    for text in settings.method:
        name, _, more = text.partition(": ")
        method = Method([*SMALL, *given, *more.split()])
        counts = Counter()
        failed = disturbed(
            method, output / name.replace(" ", ""), settings.tries, draws, counts, progress
        )
        failures += [f"{name}: {failure}" for failure in failed]
        kinds = " | ".join(str(counts[kind]) for kind in KINDS)
        rows.append(f"| {name} | {kinds} | {counts['runs']} | {len(failed)} |")
        write(output / "endurance.md", rows, failures)
    progress.close()
    print((output / "endurance.md").read_text())
    return bool(failures)


def parsed(arguments: list[str]) -> Settings:
    """Returns the settings of a command line, or exits with what is wrong with it."""
    try:
        settings, rest = parse(arguments, [*OWN_FLAGS, *TRAIN.values()])
    except flags.Error as error:
        raise SystemExit(f"{error} (--help lists the flags)") from error
    if rest or not settings.output:
        raise SystemExit("Give --output=FOLDER, and only flags (--help lists them).")
    return settings


def disturbed(
    method: Method,
    folder: Path,
    tries: int,
    draws: random.Random,
    counts: Counter,
    progress: tqdm.tqdm,
) -> list[str]:
    """Disturbs runs of a method.

    Args:
        method: The method.
        folder: Folder of its runs.
        tries: Number of disturbances.
        draws: Draws kinds and moments.
        counts: Counts disturbances by kind, and "runs" that were compared.
        progress: Is updated after each try.

    Returns:
        What failed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    whole = folder / "undisturbed"
    began = time.monotonic()
    with method.started(whole) as process:
        code, printed = ended(process, set())
    if code:
        raise SystemExit(f"The undisturbed run in {whole} has failed: {printed}")
    seconds = time.monotonic() - began
    sizes = [path.stat().st_size for path in whole.rglob("*") if path.is_file()]
    failures: list[str] = []
    number = 0
    run = folder / f"run_{number}"
    for done in range(tries + 1):
        try:
            if done < tries:
                kind = draws.choice(KINDS)
                counts[kind] += 1
                when = draws.uniform(0, seconds)
                size = int(draws.choice(sizes) * draws.random())
                finished = disturb(method, run, kind, when, size, draws)
                progress.update()
            else:  # the last run ends without a further disturbance
                kind, when = "the end", 0.0
                with method.started(run) as process:
                    code, printed = ended(process, set())
                if code:
                    raise Failure(f"exit code {code}: {printed}")
                finished = True
            if finished:
                counts["runs"] += 1
                compare(whole, run)
                shutil.rmtree(run)
        except Failure as failure:
            failures.append(f"{kind} after {when:.1f} s in {run}: {failure}")
            finished = True  # go on with another run
        if finished:
            number += 1
            run = folder / f"run_{number}"
    return failures


def disturb(
    method: Method, run: Path, kind: str, when: float, size: int, draws: random.Random
) -> bool:
    """Starts or continues a run and disturbs it.

    Args:
        method: The method.
        run: Folder of the run.
        kind: One of `KINDS`.
        when: Seconds from the start.
        size: Bytes beyond which files cannot grow, for "disk".
        draws: Draws which process of several is disturbed.

    Returns:
        Whether the run is finished.

    Raises:
        Failure: If it ended in another way than it must.
    """
    with method.started(run) as process:
        workers: set[int] = set()
        try:
            process.wait(when)
        except subprocess.TimeoutExpired:
            children = children_of(process.pid)
            workers = set(children) if method.workers else set()
            target = draws.choice([process.pid, *children]) if method.workers else process.pid
            if kind == "disk":
                target = children[0] if method.workers and children else process.pid  # the chief
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                if kind == "disk":
                    resource.prlimit(target, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
                else:
                    os.kill(target, signal.SIGKILL if kind == "kill" else signal.SIGTERM)
        code, printed = ended(process, workers)
    # Until Python has started, SIGTERM ends the process by itself: -15, which a shell shows as 143.
    # Without one worker the others end with 1. The launcher ends with the code of the first.
    allowed = {"kill": {-9}, "term": {143, -15}, "disk": {1, 2}}[kind] | {0}
    if method.workers:
        allowed |= {"kill": {1, 137}, "term": {1}, "disk": set()}[kind]
    lines = [line for line in printed.splitlines() if line.startswith("daso-tf: ")]
    if code not in allowed or "Traceback" in printed:
        raise Failure(f"exit code {code}: {printed}")
    if code > 0 and len(lines) != 1 and not method.workers:
        raise Failure(f"{len(lines)} lines: {printed}")
    return code == 0


def ended(process: subprocess.Popen, others: set[int]) -> tuple[int, str]:
    """Waits for a process, and for others that it has started.

    Returns:
        Its exit code and what it has printed to stderr.
    """
    try:
        printed = process.communicate(timeout=LONGEST_SECONDS)[1]
        end = time.monotonic() + LONGEST_SECONDS
        while any(Path(f"/proc/{other}").exists() for other in others):
            if time.monotonic() > end:
                raise Failure("a worker has not ended")
            time.sleep(0.1)
    except subprocess.TimeoutExpired as error:
        raise Failure(f"it has not ended within {LONGEST_SECONDS} s") from error
    where = [line for line in printed.splitlines() if line.startswith("The other workers print")]
    return process.returncode, "\n".join(set(printed.splitlines()) - set(where))


def children_of(process: int) -> list[int]:
    """Returns the processes that a process has started, the oldest first."""
    try:
        return [*map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())]
    except FileNotFoundError:  # it has just ended
        return []


def compare(whole: Path, run: Path) -> None:
    """Compares a run with an undisturbed one.

    Raises:
        Failure: If they differ.
    """
    last = max((whole / "checkpoints").glob("step_*.npz")).relative_to(whole)
    try:
        with np.load(whole / last) as one, np.load(run / last) as other:
            if one.files != other.files:
                raise Failure("the checkpoints have other arrays")
            differing = [n for n in one.files if one[n].tobytes() != other[n].tobytes()]
        if differing:
            raise Failure(f"the checkpoints differ in {', '.join(differing[:5])}")
        results = [json.loads((at / "results.json").read_text()) for at in (whole, run)]
    except OSError as error:
        raise Failure(str(error)) from error
    if results[0] != results[1]:
        raise Failure("results.json differs")
    if not (run / "export" / "saved_model.pb").exists():
        raise Failure("there is no export")


def write(path: Path, rows: list[str], failures: list[str]) -> None:
    """Writes the table of the methods so far, and what failed."""
    head = ["method", *KINDS, "runs compared", "failures"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *rows]
    if failures:
        lines += ["", *(f"- {failure}" for failure in failures)]
    path.write_text("\n".join(lines) + "\n")


# One long run -------------------------------------------------------------------------------------


def soak(output: Path, flags: list[str], interval: int) -> int:
    """Trains a long run and samples what its process uses."""
    run = output / "soak"
    shutil.rmtree(run, ignore_errors=True)
    samples: list[tuple[int, float, int, int]] = []
    steps = int(flags[-1].partition("=")[2])
    progress = tqdm.tqdm(total=steps, desc="steps")
    with progress, Method(flags).started(run) as process:
        while process.poll() is None:
            step, used = newest_step(run), usage(process.pid)
            if step and used and (not samples or step > samples[-1][0]):
                progress.update(step - progress.n)
                samples.append((step, *used))
            time.sleep(interval)
        code, printed = ended(process, set())
    if code or len(samples) < 2:
        raise SystemExit(f"The run has ended with code {code}: {printed}")
    chosen = [
        samples[i] for i in np.linspace(0, len(samples) - 1, min(11, len(samples)), dtype=int)
    ]
    lines = ["| step | memory, MiB | open files | threads |", "|---" * 4 + "|"]
    lines += [f"| {step:,} | {m:.0f} | {f} | {t} |" for step, m, f, t in chosen]
    second = np.array(samples[len(samples) // 2 :])
    growth = np.polyfit(second[:, 0] / 1000, second[:, 1], 1)[0] if len(second) > 1 else 0.0
    lines += ["", f"Memory in the second half: {growth:+.2f} MiB per 1,000 steps."]
    (output / "soak.md").write_text("\n".join(lines) + "\n")
    draw(samples, output / "soak.png")
    print((output / "soak.md").read_text())
    return 0


def newest_step(run: Path) -> int:
    """Returns the step of the newest checkpoint; 0 if there is none."""
    names = [path.stem for path in (run / "checkpoints").glob("step_*.npz")]
    return max((int(name.removeprefix("step_")) for name in names), default=0)


def usage(process: int) -> tuple[float, int, int] | None:
    """Returns memory in MiB, open files and threads of a process; None if it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
        files = len(os.listdir(f"/proc/{process}/fd"))
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in status.splitlines())
    if "VmRSS" not in fields:  # it has just ended
        return None
    return int(fields["VmRSS"].split()[0]) / 1024, files, int(fields["Threads"])


def draw(samples: list[tuple[int, float, int, int]], path: Path) -> None:
    """Draws the samples by step."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    FigureCanvasAgg(figure)
    steps, *values = zip(*samples, strict=True)
    labels = ("memory, MiB", "open files", "threads")
    for axes, label, of in zip(figure.subplots(3, sharex=True), labels, values, strict=True):
        axes.plot(steps, of)
        axes.set_ylim(0, 1.2 * max(of))
        axes.set_ylabel(label)
    axes.set_xlabel("step")
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
