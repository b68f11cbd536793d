"""Measures the library on a machine with an NVIDIA GPU.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --train_minutes=5 --data_dir=cifar10_jpeg

Prints Markdown: how far the recorded runs deviate on the GPU (float32, TF32 off), the GPU's rate of
matrix products, and the steps per second of flags/cifar10_lt.cfg in each precision, with and
without XLA and with several steps per call, with the resulting time of the paper's 250,000 steps.
Each row is printed when it is measured. With --train_minutes, the program then trains on an image
folder for about that time.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
from step_time import BATCH, RATIO, ROOT, configured, step_operations

from daso_tf.commands.replay import replay_file
from daso_tf.commands.replay.comparison import worst

PAPER_STEPS = 250_000
# Whether TF32 is on, and the flag, by precision.
PRECISIONS = {
    "float32": (False, "--mixed_precision=none"),
    "TF32": (True, "--mixed_precision=none"),
    "bfloat16": (True, "--mixed_precision=bfloat16"),
}
# Whether XLA compiles the step, and the steps per call.
WAYS = ((True, 1), (True, 10), (False, 1))


def main() -> int:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10, help="duration of each measurement")
    parser.add_argument(
        "--any_device", action="store_true", help="measure without a GPU, as a trial"
    )
    parser.add_argument("--width", type=int, default=2, help="width of the WRN-28")
    parser.add_argument("--resolution", type=int, default=32, help="side of the images in pixels")
    parser.add_argument(
        "--traces", nargs="*", type=Path, help="recorded runs; by default those of the tests"
    )
    parser.add_argument(
        "--train_minutes", type=float, default=0, help="duration of the training run; 0: none"
    )
    parser.add_argument(
        "--data_dir", help="its image folder: train/CLASS/*.jpg and test/CLASS/*.jpg"
    )
    args = parser.parse_args()
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus and not args.any_device:
        print(f"TensorFlow {tf.__version__} finds no GPU here.", file=sys.stderr)
        return 2
    if args.train_minutes and not args.data_dir:
        parser.error("--train_minutes needs --data_dir")
    name = tf.config.experimental.get_device_details(gpus[0])["device_name"] if gpus else "CPU"
    print(f"{name}, TensorFlow {tf.__version__}.\n", flush=True)
    within = replays(args.traces or sorted((ROOT / "tests/data").glob("*.npz")))
    rates = {name: matrix_rate(name) for name in PRECISIONS}
    listed = ", ".join(f"{name} {rate / 1e12:.1f}" for name, rate in rates.items())
    print(f"\nMatrix products, TFLOP/s: {listed}.\n", flush=True)
    fastest = steps(args, rates["bfloat16"])
    if args.train_minutes:
        train(args, fastest)
    return 0 if within else 1


def replays(traces: list[Path]) -> bool:
    """Prints how far the recorded runs deviate; returns whether all are within tolerance."""
    tf.config.experimental.enable_tensor_float_32_execution(False)
    print("| trace | XLA | worst quantity | deviation | tolerance | |\n|---|---|---|---|---|---|")
    all_within = True
    for path in traces:
        for xla in (False, True):
            result = replay_file(path, jit_compile=xla)
            quantity, within = worst(result.quantities), not result.exceeded
            all_within &= within
            print(
                f"| {path.stem} | {('no', 'yes')[xla]} | {quantity.name} | "
                f"{quantity.deviation:.1e} | {quantity.tolerance:.0e} | "
                f"{'ok' if within else 'EXCEEDED'} |",
                flush=True,
            )
    return all_within


def matrix_rate(precision: str, size: int = 8192) -> float:
    """Measures the rate of matrix products, in operations per second."""
    use(precision)
    kind = tf.bfloat16 if precision == "bfloat16" else tf.float32
    size = size if tf.config.list_physical_devices("GPU") else size // 8
    one = tf.cast(tf.random.normal([size, size]), kind)

    @tf.function
    def chain(times):
        product = one
        for _ in tf.range(times):
            product = tf.matmul(one, product) / 100
        return tf.reduce_sum(tf.cast(product, tf.float32))

    chain(2).numpy()
    start = time.perf_counter()
    chain(tf.constant(20)).numpy()
    return 20 * 2 * size**3 / (time.perf_counter() - start)


def use(precision: str) -> str:
    """Turns TF32 on or off; returns the flag of the precision."""
    tf32, flag = PRECISIONS[precision]
    tf.config.experimental.enable_tensor_float_32_execution(tf32)
    return flag


def steps(args, bfloat16_rate: float) -> tuple[float, list[str]]:
    """Prints the table of steps per second; returns the highest rate and its flags."""
    draw = np.random.default_rng(0).integers
    shape = (args.resolution, args.resolution, 3)
    arrays = (
        draw(0, 256, (2000, *shape), np.uint8),
        np.arange(2000) % 10,
        draw(0, 256, (8000, *shape), np.uint8),
    )
    print(
        "| precision | XLA | steps per call | first step, s | steps/s | images/s | TFLOP/s |",
        end="",
    )
    print(f" of the bfloat16 rate | hours for {PAPER_STEPS:,} steps |")
    print("|---|---|---|---|---|---|---|---|---|")
    fastest = (0.0, [])
    for precision in PRECISIONS:
        for xla, at_a_time in WAYS:
            settings = [
                use(precision),
                f"--jit_compile={'true' if xla else 'false'}",
                f"--steps_per_execution={at_a_time}",
            ]
            learner, batches = configured(
                arrays,
                *settings,
                f"--encoder=wrn_28_{args.width}",
                f"--resolution={args.resolution}",
                "--pretrain_steps=0",
            )
            first, rate = measured(learner, batches, at_a_time, args.seconds)
            fastest = max(fastest, (rate, settings))
            flops = rate * step_operations(learner.encoder)
            images = rate * BATCH * (1 + RATIO)
            print(
                f"| {precision} | {('no', 'yes')[xla]} | {at_a_time} | {first:.0f} | {rate:.2f} "
                f"| {images:,.0f} | {flops / 1e12:.2f} | {flops / bfloat16_rate:.1%} | "
                f"{PAPER_STEPS / rate / 3600:.2f} |",
                flush=True,
            )
    return fastest


def measured(learner, batches, at_a_time: int, seconds: float) -> tuple[float, float]:
    """Returns the seconds of the first call and the steps per second of the later ones."""
    start = time.perf_counter()
    float(learner.train_function(batches)["loss"])
    first = time.perf_counter() - start
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for _ in range(max(1, 20 // at_a_time)):
            logs = learner.train_function(batches)
            done += at_a_time
        float(logs["loss"])  # waits for the device
    return first, done / (time.perf_counter() - start)


def train(args, fastest: tuple[float, list[str]]) -> None:
    """Trains on images for about --train_minutes and prints the result."""
    rate, settings = fastest
    evaluations = 20
    each = max(10, int(rate * 60 * args.train_minutes / evaluations) // 10 * 10)
    count = evaluations * each
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "daso_tf.train",
            f"--flagfile={ROOT / 'flags/cifar10_lt.cfg'}",
        ]
        command += ["--dataset=image_folder", f"--data_dir={args.data_dir}", *settings]
        command += [f"--encoder=wrn_28_{args.width}", f"--resolution={args.resolution}"]
        command += [f"--steps={count}", f"--evaluate_every={each}", "--logit_adjustment=1"]
        command += [f"--pretrain_steps={count // 50}", f"--model_dir={folder}"]
        print(f"\n    {' '.join(command[1:])}\n", flush=True)
        start = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        print(done.stdout[-3000:] if done.returncode == 0 else done.stderr[-3000:])
        print(f"Exit code {done.returncode} after {time.perf_counter() - start:.0f} s.")


if __name__ == "__main__":
    sys.exit(main())
