"""Measures how time and memory grow with the size of a task.

    python benchmarks/growth.py
    python benchmarks/growth.py classes --pairs 8
    python benchmarks/growth.py images pictures workers

Prints a Markdown table, each row when it is measured, and the slope of each of its last columns.
Each row is measured in processes of its own. The parts:

- classes: a step of a small network with and without DASO's memory, as the classes K, the queue
  size Q, the features D and the batch grow. Both processes take turns.
- images: what is kept for each unlabeled image: the random order of a pass, the memories of
  FlexMatch and ADSH, and the rows of a feature bank.
- workers: a step on replicas that share the cores of this machine, so only their overhead.
- pictures: a step of FixMatch with DASO on WRN-10-1, as the side of the pictures grows.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

import numpy as np
from step_time import RATIO, Ours, Worker, configured, serve

BASE = {"classes": 10, "queue": 256, "features": 128, "batch": 64}
CLASSES = (
    BASE,
    BASE | {"classes": 100},
    BASE | {"classes": 1000},
    BASE | {"classes": 10_000, "queue": 64},
    BASE | {"queue": 64},
    BASE | {"queue": 1024},
    BASE | {"features": 512},
    BASE | {"features": 2048},
    BASE | {"batch": 16},
    BASE | {"batch": 256},
)
IMAGES = (10**4, 10**5, 10**6, 10**7)
KEPT = ("order", "flexmatch", "adsh", "rows")
WORKERS = (1, 2, 3, 4)
PICTURES = (32, 64, 96, 128)
POSITIONS, ROW = 128, (2, 64)  # a batch of unlabeled images; views and features of a row


def main() -> int:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; by default all")
    parser.add_argument("--pairs", type=int, default=8, help="measurements of each row")
    parser.add_argument("--jit_compile", default="auto", help="as for daso-tf train")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--setting", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        serve(PROGRAMS[args.worker](args))
        return 0
    if unknown := set(args.parts) - PARTS.keys():
        parser.error(f"there is no part {sorted(unknown)[0]!r}; choose of {', '.join(PARTS)}")
    for part in args.parts or PARTS:
        PARTS[part](args)
    return 0


# ---------------------------------------------------------------- the tables


def classes(args: argparse.Namespace) -> None:
    """Prints what DASO costs."""
    heading("K", "Q", "D", "batch", "ms without DASO", "ms with", "MB without", "MB with")
    rows = {}
    for setting in CLASSES:
        workers = [start("step", args, setting | {"daso": daso}) for daso in (False, True)]
        cells = [*timed(workers, args.pairs), *peaks(workers)]
        row(*setting.values(), *cells)
        if setting == BASE | {"classes": setting["classes"]}:
            rows[setting["classes"]] = cells[1] - cells[0], cells[3] - cells[2]
    slopes(rows, "class", ("ms for DASO", "MB for DASO"))


def images(args: argparse.Namespace) -> None:
    """Prints what is kept for each unlabeled image."""
    for kept in KEPT:
        heading(kept, *PROGRAMS[kept].columns, "MB above an idle process")
        rows = {}
        for count in IMAGES:
            (worker,) = workers = [start(kept, args, {"images": count})]
            idle = worker.ask("memory")
            once = [1e3 * worker.ask(question) for question in PROGRAMS[kept].once]
            cells = [*once, *timed(workers, args.pairs), worker.ask("memory") - idle]
            worker.close()
            rows[count] = cells
            row(f"{count:,}", *cells)
        slopes(rows, "image", (*PROGRAMS[kept].columns, "MB"))


def workers(args: argparse.Namespace) -> None:
    """Prints what replicas cost where they share the cores of one."""
    heading("replicas", "ms per step", "MB")
    rows = {}
    for count in WORKERS:
        started = [start("replicas", args, {"replicas": count})]
        rows[count] = [*timed(started, args.pairs), *peaks(started)]
        row(count, *rows[count])
    slopes(rows, "replica", ("ms", "MB"))


def pictures(args: argparse.Namespace) -> None:
    """Prints the duration of a step by the side of its pictures."""
    heading("side", "pixels", "ms per step", "MB")
    rows = {}
    for side in PICTURES:
        started = [start("pictures", args, {"side": side})]
        rows[side**2] = [*timed(started, args.pairs), *peaks(started)]
        row(side, side**2, *rows[side**2])
    slopes(rows, "pixel", ("ms", "MB"))


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "classes": classes,
    "images": images,
    "workers": workers,
    "pictures": pictures,
}


def start(kind: str, args: argparse.Namespace, setting: dict) -> Worker:
    """Starts a process that measures a row."""
    common = f"--jit_compile={args.jit_compile}"
    return Worker(kind, common, f"--setting={json.dumps(setting)}", program=__file__)


def timed(workers: Sequence[Worker], count: int) -> list[float]:
    """Returns the median milliseconds of each process; they take turns."""
    for worker in workers:
        worker.ask("step")
    seconds = [[worker.ask("step") for worker in workers] for _ in range(count)]
    return [1e3 * float(median) for median in np.median(seconds, axis=0)]


def peaks(workers: Sequence[Worker]) -> list[float]:
    """Ends processes; returns their peak memory in MB."""
    memory = [worker.ask("memory") for worker in workers]
    for worker in workers:
        worker.close()
    return memory


def heading(*columns: str) -> None:
    """Begins a table."""
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)


def row(*cells: float | str) -> None:
    """Prints a row."""
    texts = (f"{cell:,.1f}" if isinstance(cell, float) else str(cell) for cell in cells)
    print(f"| {' | '.join(texts)} |", flush=True)


def slopes(rows: dict[int, Sequence[float]], unit: str, columns: Sequence[str]) -> None:
    """Prints by how much each column grows, as a line through its values has it."""
    fitted = np.polyfit(list(rows), list(rows.values()), 1)[0]
    listed = (f"{slope:.3g} {name}" for slope, name in zip(fitted, columns, strict=True))
    print(f"\nSlope for each {unit}: {', '.join(listed)}.", flush=True)


# ---------------------------------------------------------------- the processes that are measured


def small_encoder(num_features: int):
    """Makes a network of one convolution for pictures of 16 pixels."""
    import keras

    return keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.Conv2D(32, 3, strides=2, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(num_features),
        ]
    )


def small_learner(setting: dict, jit_compile: str):
    """Makes FixMatch with a small network, with or without DASO."""
    import keras

    import daso_tf
    from daso_tf.pseudo_labels import DASOPseudoLabeler

    labeler = DASOPseudoLabeler(queue_size=setting["queue"], pretrain_steps=0)
    learner = daso_tf.FixMatch(
        small_encoder(setting["features"]),
        setting["classes"],
        labeler if setting["daso"] else None,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    )
    jit = {"true": True, "batch_norm": "batch_norm"}.get(jit_compile, False)
    learner.compile(keras.optimizers.SGD(0.03), jit_compile=jit)
    return learner


def small_batch(setting: dict) -> tuple:
    """Makes one batch of random pictures."""
    draw = np.random.default_rng(0).integers
    batch = setting["batch"]
    labeled, unlabeled = (draw(0, 256, (n, 16, 16, 3), np.uint8) for n in (batch, RATIO * batch))
    return (labeled, unlabeled), draw(0, setting["classes"], batch, np.int32)


class Step:
    """A small network's step, with and without DASO."""

    def __init__(self, args: argparse.Namespace):
        import tensorflow as tf

        self.learner = small_learner(args.setting, args.jit_compile)
        self.batches = iter(tf.data.Dataset.from_tensors(small_batch(args.setting)).repeat())
        self.learner.make_train_function()

    step = Ours.step


class Replicas:
    """The same with DASO, on replicas that share the cores."""

    def __init__(self, args: argparse.Namespace):
        import tensorflow as tf

        from daso_tf.platform import strategies

        count = args.setting["replicas"]
        (device,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(
            device, [tf.config.LogicalDeviceConfiguration()] * count
        )
        setting = BASE | {"daso": True, "batch": 48}
        strategy = strategies.make("mirrored" if count > 1 else "none")
        with strategy.scope():
            self.learner = small_learner(setting, args.jit_compile)
        batches = tf.data.Dataset.from_tensors(small_batch(setting)).repeat()
        self.batches = iter(strategy.experimental_distribute_dataset(batches))
        self.learner.make_train_function()

    step = Ours.step


class Pictures:
    """The step of `daso-tf train` on random pictures of some size."""

    def __init__(self, args: argparse.Namespace):
        side = args.setting["side"]
        draw = np.random.default_rng(0).integers
        counts = 100, 200
        arrays = [draw(0, 256, (count, side, side, 3), np.uint8) for count in counts]
        arrays.insert(1, np.arange(100) % 10)
        self.learner, self.batches = configured(
            arrays,
            "--encoder=wrn_10_1",
            f"--resolution={side}",
            "--jit_compile=batch_norm",
            "--pretrain_steps=0",
        )

    step = Ours.step


class Order:
    """The random orders of passes over unlabeled images."""

    columns = ("ms to the first batch", "to one in the middle of a pass", "ms for 100 batches")
    once = ("first", "middle")

    def __init__(self, args: argparse.Namespace):
        import tensorflow as tf  # noqa: F401  # not a part of what is measured

        self.count = args.setting["images"]

    def _from(self, start: int) -> float:
        """Measures the seconds to the first batch at some place of the passes."""
        from daso_tf.data.shuffle import BatchStream, endless_passes

        begin = time.perf_counter()
        positions = endless_passes(self.count, 0, BatchStream.UNLABELED, np.int64(start))
        self.batches = iter(positions.batch(POSITIONS))
        next(self.batches)
        return time.perf_counter() - begin

    def first(self) -> float:
        """Measures the seconds to the first batch."""
        self._from(0)  # the first call loads what TensorFlow needs
        return self._from(0)

    def middle(self) -> float:
        """Measures the seconds to a batch in the middle of the fourth pass."""
        return self._from(3 * self.count + self.count // 2)

    def step(self) -> None:
        """Takes 100 batches."""
        for _ in range(100):
            next(self.batches)


class Memory:
    """A threshold that remembers a pseudo-label of each unlabeled image."""

    once: tuple[str, ...] = ()
    columns: tuple[str, ...] = ("ms per step",)

    def __init__(self, args: argparse.Namespace):
        import tensorflow as tf

        self.count, classes = args.setting["images"], 10
        self.target = tf.nn.softmax(3 * tf.random.stateless_normal([POSITIONS, classes], [0, 1]))
        self.positions = tf.range(POSITIONS, dtype=tf.int64) * (self.count // POSITIONS)

    def made(self):
        """Makes the threshold and builds it."""
        threshold = self.threshold()
        threshold.build((None, 10))
        self.epoch_steps = getattr(threshold, "epoch_steps", 0)
        return threshold

    def compute(self, step: int) -> None:
        """Computes a step."""
        import tensorflow as tf

        if not hasattr(self, "compiled"):
            threshold = self.made()
            self.compiled = tf.function(
                lambda target, positions, step: (
                    threshold(target, positions=positions, step=step).weights
                )
            )
        self.compiled(self.target, self.positions, tf.constant(step, tf.int64)).numpy()

    def step(self) -> None:
        """Computes a step in the middle of an epoch."""
        self.compute(1)


class FlexMatch(Memory):
    """FlexMatch's."""

    def threshold(self):
        """Makes it."""
        from daso_tf.thresholds import FlexMatchThreshold

        return FlexMatchThreshold(num_images=self.count)


class ADSH(Memory):
    """ADSH's, which sorts all images where an epoch begins."""

    once = ("first",)
    columns = ("ms where an epoch begins", "ms per step")

    def threshold(self):
        """Makes it."""
        from daso_tf.thresholds import ADSHThreshold

        return ADSHThreshold([10] * 10, num_images=self.count, epoch_steps=100)

    def first(self) -> float:
        """Measures the seconds of a step that begins an epoch."""
        self.compute(0)
        begin = time.perf_counter()
        self.compute(200)
        return time.perf_counter() - begin


class FeatureRows:
    """Batches of the rows of a feature bank, which the system maps from a file."""

    columns = ("ms for 100 batches",)
    once: tuple[str, ...] = ()

    def __init__(self, args: argparse.Namespace):
        import tensorflow as tf  # noqa: F401  # not a part of what is measured

        self.count = args.setting["images"]
        self.batches = None

    def step(self) -> None:
        """Takes 100 batches in a random order."""
        if self.batches is None:
            from daso_tf.data.rows import Rows
            from daso_tf.data.shuffle import BatchStream, endless_passes

            with tempfile.NamedTemporaryFile() as file:  # its pages are empty and take no space
                views = np.memmap(file, np.float16, "w+", shape=(self.count, *ROW))
            rows = Rows([views], np.zeros(self.count, np.int32), size=(16, 16))
            positions = endless_passes(self.count, 0, BatchStream.UNLABELED, np.int64(0))
            self.batches = iter(rows.dataset(positions, POSITIONS, drop_remainder=True))
        for _ in range(100):
            next(self.batches)


PROGRAMS = {
    "step": Step,
    "replicas": Replicas,
    "pictures": Pictures,
    "order": Order,
    "flexmatch": FlexMatch,
    "adsh": ADSH,
    "rows": FeatureRows,
}

if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.exit(main())
