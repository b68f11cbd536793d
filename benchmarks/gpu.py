"""Measures the library on a machine with an NVIDIA GPU, in less than 8 minutes.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --data_dir=cifar10_jpeg
    python benchmarks/gpu.py --tiny

Prints Markdown, each row when it is measured: how far the recorded runs deviate on the GPU
(float32, TF32 off), the GPU's rate of matrix products, both programs of the strong views, and the
steps per second of flags/cifar10_lt.cfg in each precision, with and without XLA and with several
steps per call, with the resulting time of the paper's 250,000 steps. With --data_dir, the program
then trains on that image folder for --train_minutes with the fastest of these settings.

Each part, and each row of the last table, is a process of its own with a limit of time. A part that
fails or is too slow is reported in one line, and the next one starts. What no time is left for is
listed at the end. Exit code: 0 if everything was measured and all recorded runs are within their
tolerance.

--tiny tries all parts at sizes that a CPU computes in a few minutes. Its numbers mean nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from step_time import BATCH, RATIO, ROOT, configured, step_operations

PAPER_STEPS = 250_000
PARTS = ("replay", "matrix", "views", "steps", "train")
# Whether TF32 is on, and the flag, by precision.
PRECISIONS = {
    "bfloat16": (True, "--mixed_precision=bfloat16"),
    "TF32": (True, "--mixed_precision=none"),
    "float32": (False, "--mixed_precision=none"),
}
START_SECONDS = 90  # of a training run: import, compilation, evaluations, export


class Sizes(NamedTuple):
    """How much is computed."""

    encoder: str
    resolution: int
    matrix: int
    seconds: float  # of each measurement
    burst: int  # steps after which it waits for the device
    # Precision, whether XLA compiles the step, steps per call, and whether images stay on the
    # device. The most useful rows come first.
    rows: tuple[tuple[str, bool, int, bool], ...]
    traces: int  # recorded runs
    views: tuple[str, ...]  # arguments of augment_programs.py

    xla_flags: str


FULL = Sizes(
    "wrn_28_2",
    resolution=32,
    matrix=8192,
    seconds=5.0,
    burst=20,
    rows=(
        *((precision, True, 10, False) for precision in PRECISIONS),
        ("bfloat16", True, 10, True),
        *((precision, True, 1, False) for precision in PRECISIONS),
        *((precision, False, 1, False) for precision in PRECISIONS),
    ),
    traces=3,
    views=(),
    xla_flags="",
)
TINY = Sizes(
    "wrn_10_1",
    resolution=8,
    matrix=256,
    seconds=0.1,
    burst=2,
    rows=(("bfloat16", True, 2, False), ("TF32", False, 2, True), ("float32", False, 1, False)),
    traces=1,
    views=("--batch=16", "--sizes", "8", "--rounds=2"),
    xla_flags="--xla_backend_optimization_level=0",  # compiles in half of the time
)


def main() -> int:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--minutes", type=float, default=7.5, help="when all must be done; by default 7.5"
    )
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=PARTS, help="what is measured; by default all"
    )
    parser.add_argument(
        "--data_dir", help="image folder of the training run: train/CLASS/*.jpg, test/CLASS/*.jpg"
    )
    parser.add_argument(
        "--train_minutes", type=float, default=1.5, help="duration of the training run"
    )
    parser.add_argument(
        "--tiny", action="store_true", help="a trial with tiny sizes, on any device"
    )
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    sizes = TINY if args.tiny else FULL
    if args.child:
        return CHILDREN[args.child[0]](sizes, *args.child[1:])
    return Parts(args, sizes).measure()


# ---------------------------------------------------------------- the process that starts the parts


class Parts:
    """Runs the parts one after another, each in a process with a limit of time."""

    def __init__(self, args: argparse.Namespace, sizes: Sizes):
        self.args, self.sizes = args, sizes
        self.end = time.monotonic() + 60 * args.minutes
        self.problems: list[str] = []
        self.rates: dict[str, float] = {}  # of matrix products
        self.fastest: tuple[float, list[str]] = (0.0, [])

    def measure(self) -> int:
        """Measures everything; returns the exit code."""
        if self.child("device") is None:
            return 2
        with tempfile.TemporaryDirectory() as folder:
            for part in self.args.parts:
                getattr(self, part)(Path(folder))
        if self.problems:
            print("\nNot measured, or not as it must be:\n")
            print("\n".join(f"- {problem}" for problem in self.problems))
        return 1 if self.problems else 0

    def replay(self, folder: Path) -> None:
        """Prints how far the recorded runs deviate."""
        del folder
        heading("trace", "XLA", "worst quantity", "deviation", "tolerance", "")
        self.child("replay", share=0.35)

    def matrix(self, folder: Path) -> None:
        """Prints the rates of matrix products."""
        del folder
        self.rates = self.child("matrix", share=0.2) or {}

    def views(self, folder: Path) -> None:
        """Prints the table of both programs of the strong views."""
        del folder
        print(flush=True)
        program = str(ROOT / "benchmarks/augment_programs.py")
        self.run("views", [program, *self.sizes.views], share=0.2)

    def steps(self, folder: Path) -> None:
        """Prints the table of steps per second."""
        del folder
        heading(
            *("precision", "XLA", "steps per call", "images stay on the device", "first step, s"),
            *(
                "steps/s",
                "images/s",
                "TFLOP/s",
                "of the bfloat16 rate",
                f"hours for {PAPER_STEPS:,} steps",
            ),
        )
        rate = self.rates.get("bfloat16", 0)
        for row in self.sizes.rows:
            found = self.child("steps", *row, rate, share=0.25, spare=self.reserved())
            if found:
                self.fastest = max(self.fastest, (found["rate"], found["settings"]))

    def reserved(self) -> float:
        """Returns the seconds that the training run needs at the end."""
        trains = "train" in self.args.parts and self.args.data_dir
        return 60 * self.args.train_minutes + START_SECONDS if trains else 0

    def train(self, folder: Path) -> None:
        """Trains on images for about --train_minutes and prints the result."""
        rate, settings = self.fastest
        sizes, minutes, data_dir, counts = (
            self.sizes,
            self.args.train_minutes,
            self.args.data_dir,
            [],
        )
        if self.args.tiny:
            rate, minutes, data_dir = 1.0, 1.0, folder / "pictures"
            write_pictures(data_dir, sizes.resolution)
            counts = ["--labeled_head=8", "--unlabeled_head=16", "--validation_size=0"]
            counts += ["--labeled_imbalance=2", "--unlabeled_imbalance=2", "--batch_size=8"]
        if not data_dir:
            return
        if not rate:
            self.problems.append("train: no setting of the step was measured before it")
            return
        evaluations = 2 if self.args.tiny else 10
        each = max(10, int(rate * 60 * minutes / evaluations) // 10 * 10)
        count = evaluations * each
        self.run(
            "train",
            [
                *("-m", "daso_tf.train", f"--flagfile={ROOT / 'flags/cifar10_lt.cfg'}"),
                *("--dataset=image_folder", f"--data_dir={data_dir}", *counts, *settings),
                *(f"--encoder={sizes.encoder}", f"--resolution={sizes.resolution}"),
                *(f"--steps={count}", f"--evaluate_every={each}", "--logit_adjustment=1"),
                *(f"--pretrain_steps={count // 50}", f"--model_dir={folder / 'run'}"),
            ],
            shown=True,
        )

    def child(self, *child: object, share: float = 1.0, spare: float = 0) -> dict | None:
        """Runs a part of this file; returns what it found, or None if it has failed."""
        options = ["--tiny"] if self.args.tiny else []
        name = " ".join(str(word) for word in child[:5])
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            command = [
                __file__,
                *options,
                f"--child={json.dumps([child[0], file.name, *child[1:]])}",
            ]
            done = self.run(name, command, share, spare)
            written = Path(file.name).read_text()
        found = json.loads(written) if written else {}
        self.problems += found.pop("problems", [])
        return found if done or found else None

    def run(
        self,
        name: str,
        arguments: Sequence[str],
        share: float = 1.0,
        spare: float = 0,
        shown: bool = False,
    ) -> bool:
        """Runs Python with arguments; its output appears at once.

        Args:
            name: Of the part, for messages.
            arguments: Those of Python.
            share: The part of all time that it may take at most.
            spare: Seconds to leave for later parts.
            shown: Whether the command line is printed.

        Returns:
            Whether it has succeeded.
        """
        left = self.end - time.monotonic() - spare
        limit = min(left, 60 * share * self.args.minutes)
        if left < (5 if self.args.tiny else 20):
            self.problems.append(f"{name}: no time was left")
            return False
        if shown:
            print(f"\n    {' '.join(map(str, arguments))}\n", flush=True)
        environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ, "PYTHONPATH": str(ROOT)}
        if self.sizes.xla_flags:
            environment["XLA_FLAGS"] = self.sizes.xla_flags
        start = time.monotonic()
        with tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(
                [sys.executable, *arguments], cwd=ROOT, stderr=errors, env=environment
            )
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                self.problems.append(f"{name}: stopped after {limit:.0f} s")
                return False
            errors.seek(0)
            last = errors.read().strip().splitlines()[-1:]
        if shown:
            print(f"\nExit code {code} after {time.monotonic() - start:.0f} s.", flush=True)
        if code:
            self.problems.append(" ".join([f"{name}: exit code {code}.", *last]))
        return not code


def heading(*columns: str) -> None:
    """Begins a table."""
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)


def write_pictures(folder: Path, side: int) -> None:
    """Writes ten classes of JPEG files, in which the classes have different gray values."""
    from PIL import Image

    draw = np.random.default_rng(0).integers
    for part, count in (("train", 30), ("test", 4)):
        for k in range(10):
            target = folder / part / f"class_{k}"
            target.mkdir(parents=True)
            for number in range(count):
                picture = draw(20 * k, 20 * k + 60, (side, side, 3)).astype(np.uint8)
                Image.fromarray(picture).save(target / f"{number}.jpg")


# ---------------------------------------------------------------- the parts, each in its process


def device(sizes: Sizes, file: str) -> int:
    """Prints the name of the GPU."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus and sizes is FULL:
        print(f"TensorFlow {tf.__version__} finds no GPU here.", flush=True)
        return 2
    name = tf.config.experimental.get_device_details(gpus[0])["device_name"] if gpus else "CPU"
    print(f"{name}, TensorFlow {tf.__version__}.", flush=True)
    return 0


def replay(sizes: Sizes, file: str) -> int:
    """Prints a row for each recorded run, with and without XLA."""
    import tensorflow as tf

    from daso_tf.commands.replay import replay_file
    from daso_tf.commands.replay.comparison import worst

    tf.config.experimental.enable_tensor_float_32_execution(False)
    problems = []
    for path in sorted((ROOT / "tests/data").glob("*.npz"))[: sizes.traces]:
        for xla in (False, True):
            name = f"| {path.stem} | {('no', 'yes')[xla]} |"
            try:
                result = replay_file(path, jit_compile=xla)
            except Exception as error:  # the other rows are still worth having
                problems.append(f"replay of {path.stem}: {type(error).__name__}: {error}"[:300])
                print(f"{name} | | | failed |", flush=True)
                continue
            quantity = worst(result.quantities)
            if result.exceeded:
                problems.append(f"replay of {path.stem}: {quantity.name} exceeds its tolerance")
            print(
                f"{name} {quantity.name} | {quantity.deviation:.1e} | {quantity.tolerance:.0e} | "
                f"{'EXCEEDED' if result.exceeded else 'ok'} |",
                flush=True,
            )
    Path(file).write_text(json.dumps({"problems": problems}))
    return 0


def matrix(sizes: Sizes, file: str) -> int:
    """Prints the rate of matrix products in each precision."""
    rates = {precision: matrix_rate(precision, sizes.matrix) for precision in PRECISIONS}
    listed = ", ".join(f"{name} {rate / 1e12:.3g}" for name, rate in rates.items())
    print(f"\nMatrix products, TFLOP/s: {listed}.", flush=True)
    Path(file).write_text(json.dumps(rates))
    return 0


def matrix_rate(precision: str, size: int) -> float:
    """Measures the rate of matrix products, in operations per second."""
    import tensorflow as tf

    use(precision)
    kind = tf.bfloat16 if precision == "bfloat16" else tf.float32
    one = tf.cast(tf.random.normal([size, size]), kind)

    @tf.function
    def chain(times):
        product = one
        for _ in tf.range(times):
            product = tf.matmul(one, product) / 100
        return tf.reduce_sum(tf.cast(product, tf.float32))

    chain(tf.constant(2)).numpy()
    start = time.perf_counter()
    chain(tf.constant(20)).numpy()
    return 20 * 2 * size**3 / (time.perf_counter() - start)


def use(precision: str) -> str:
    """Turns TF32 on or off; returns the flag of the precision."""
    import tensorflow as tf

    tf32, flag = PRECISIONS[precision]
    tf.config.experimental.enable_tensor_float_32_execution(tf32)
    return flag


def steps(
    sizes: Sizes,
    file: str,
    precision: str,
    xla: bool,
    at_a_time: int,
    device_data: bool,
    bfloat16_rate: float,
) -> int:
    """Prints a row of the table of steps per second."""
    draw = np.random.default_rng(0).integers
    shape = (sizes.resolution, sizes.resolution, 3)
    arrays = (
        draw(0, 256, (2000, *shape), np.uint8),
        np.arange(2000) % 10,
        draw(0, 256, (8000, *shape), np.uint8),
    )
    settings = [
        use(precision),
        f"--jit_compile={'true' if xla else 'false'}",
        f"--steps_per_execution={at_a_time}",
        f"--device_data={'true' if device_data else 'false'}",
    ]
    learner, batches = configured(
        arrays,
        *settings,
        f"--encoder={sizes.encoder}",
        f"--resolution={sizes.resolution}",
        "--pretrain_steps=0",
        *(["--cutout_size=2"] if sizes is TINY else []),
    )
    first, rate = measured(learner, batches, at_a_time, sizes)
    flops = rate * step_operations(learner.encoder)
    images = rate * BATCH * (1 + RATIO)
    share = f"{flops / bfloat16_rate:.1%}" if bfloat16_rate else ""
    print(
        f"| {precision} | {('no', 'yes')[xla]} | {at_a_time} | {('no', 'yes')[device_data]} "
        f"| {first:.0f} | {rate:.2f} | {images:,.0f} | {flops / 1e12:.3g} | {share} "
        f"| {PAPER_STEPS / rate / 3600:.2f} |",
        flush=True,
    )
    Path(file).write_text(json.dumps({"rate": rate, "settings": settings}))
    return 0


def measured(
    learner: object, batches: Iterator, at_a_time: int, sizes: Sizes
) -> tuple[float, float]:
    """Returns the seconds of the first call and the steps per second of the later ones."""
    start = time.perf_counter()
    float(learner.train_function(batches)["loss"])
    first = time.perf_counter() - start
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < sizes.seconds:
        for _ in range(max(1, sizes.burst // at_a_time)):
            logs = learner.train_function(batches)
            done += at_a_time
        float(logs["loss"])  # waits for the device
    return first, done / (time.perf_counter() - start)


CHILDREN = {"device": device, "replay": replay, "matrix": matrix, "steps": steps}


if __name__ == "__main__":
    sys.exit(main())
