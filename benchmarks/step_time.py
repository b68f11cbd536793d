"""Times a training step of the library and the same step written plainly in PyTorch.

    pip install ".[bench]"
    python benchmarks/step_time.py
    python benchmarks/step_time.py --precision float32 bfloat16 --torch_compile

Trains FixMatch + DASO with the settings of flags/cifar10_lt.cfg (WRN-28-2, 64
labeled and 128 unlabeled images) in processes that take turns, step by step: `daso_tf` as in the
train command, and `benchmarks/pytorch_reference.py` with channels last and Pillow's augmentation in
DataLoader workers, as the authors train. While one process computes, the others wait. Prints
seconds per step, images per second, peak memory, the time to the first step and the ratios of both
programs. In bfloat16 the first program has `--mixed_precision=bfloat16` and the second one runs its
networks under `torch.autocast`. `--torch_compile` adds the second program with networks that
`torch.compile` compiles, which needs a C++ compiler. `--repository=FOLDER` adds another version of
the library, a working tree.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tqdm

ROOT = Path(__file__).resolve().parents[1]
BATCH, RATIO = 64, 2
MIXED = {"float32": "none", "bfloat16": "bfloat16"}  # --precision and --mixed_precision


def main() -> int:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=15, help="steps of each program")
    parser.add_argument("--jit_compile", default="auto", help="as for daso-tf train")
    parser.add_argument("--precision", nargs="+", choices=MIXED, default=["float32"])
    parser.add_argument("--torch_compile", action="store_true", help="add torch.compile")
    parser.add_argument("--repository", type=Path, help="add another version of the library")
    parser.add_argument("--width", type=int, default=2, help="width of the WRN-28")
    parser.add_argument("--resolution", type=int, default=32, help="side of the images in pixels")
    parser.add_argument("--worker", choices=["daso_tf", "pytorch"], help=argparse.SUPPRESS)
    parser.add_argument("--arrays", help=argparse.SUPPRESS)
    parser.add_argument("--growth", action="store_true", help=argparse.SUPPRESS)  # its old name
    args = parser.parse_args()
    if args.growth:
        parser.error("what grows is measured by: python benchmarks/growth.py classes")
    if args.worker:
        serve({"daso_tf": Ours, "pytorch": Peer}[args.worker](args))
    else:
        compare(args)
    return 0


# ---------------------------------------------------------------- the processes that take turns


class Worker:
    """A process that trains a step on request."""

    def __init__(
        self, kind: str, *arguments: str, program: str = __file__, repository: Path = ROOT
    ):
        self.started = time.perf_counter()
        command = [sys.executable, program, f"--worker={kind}", *arguments]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"PYTHONPATH": str(repository), "TF_CPP_MIN_LOG_LEVEL": "3"},
        )

    def ask(self, question: str) -> float:
        """Returns the number that the process answers to `step`, `memory`, `flops` or `rate`."""
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("answer "):
                return float(line.split()[1])
        raise SystemExit(f"{' '.join(self.process.args)} ended before it answered {question!r}")

    def first_step(self) -> float:
        """Returns the seconds from the start of the process to the end of its first step."""
        self.ask("step")
        return time.perf_counter() - self.started

    def close(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait()


def serve(program) -> None:
    """Answers the requests of the process that started this one."""
    for line in sys.stdin:
        question = line.strip()
        if question == "step":
            start = time.perf_counter()
            program.step()
            answer = time.perf_counter() - start
        elif question == "memory":
            status = Path("/proc/self/status").read_text()
            answer = float(status.split("VmHWM:")[1].split()[0]) / 1e3
        else:
            answer = getattr(program, question)()
        print("answer", answer, flush=True)


def configured(arrays, *settings: str):
    """Makes the learner of flags/cifar10_lt.cfg and its endless batches.

    Args:
        arrays: Labeled images, their classes, and unlabeled images.
        *settings: Flags with other values, as `--name=value`.

    Returns:
        The learner, ready to call its `train_function` on the iterator of batches.
    """
    from daso_tf.data import from_arrays, training_batches
    from daso_tf.settings.build import build_learner
    from daso_tf.settings.flags import TRAIN, complete
    from daso_tf.settings.settings import parse

    parsed, _ = parse(["--flagfile=cifar10_lt.cfg", *settings], TRAIN.values())
    data = from_arrays(*arrays)
    learner = build_learner(complete(parsed), data)
    if parsed.device_data:
        learner.keep_on_device(data.labeled, data.unlabeled)
    learner.make_train_function()
    batches = training_batches(
        data,
        batch_size=BATCH,
        unlabeled_ratio=RATIO,
        seed=0,
        device_data=parsed.device_data,
    )
    return learner, iter(batches.repeat())


def step_operations(encoder) -> int:
    """Counts the floating-point operations of a step's convolutions.

    The views pass the trained network forward and backward, which costs three times a forward pass.
    The labeled views pass the averaged network forward.
    """
    from daso_tf.settings.compilation import operations

    return (3 * BATCH * (1 + 2 * RATIO) + BATCH) * operations(encoder)


class Ours:
    """The step of `daso-tf train --flagfile=cifar10_lt.cfg`."""

    def __init__(self, args):
        arrays = np.load(args.arrays)
        self.learner, self.batches = configured(
            [arrays[name] for name in ("labeled_images", "labeled_labels", "unlabeled_images")],
            f"--encoder=wrn_28_{args.width}",
            f"--resolution={args.resolution}",
            f"--jit_compile={args.jit_compile}",
            f"--mixed_precision={MIXED[args.precision[0]]}",
            "--pretrain_steps=0",
        )

    def step(self) -> None:
        """Trains a step and waits for its end."""
        float(self.learner.train_function(self.batches)["loss"])

    def flops(self) -> float:
        """Counts the operations of a step."""
        return step_operations(self.learner.encoder)

    def rate(self) -> float:
        """Measures the machine's float32 matrix products, in operations per second."""
        import tensorflow as tf

        size = 3072
        one, other = tf.random.normal([size, size]), tf.random.normal([size, size])
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            tf.matmul(one, other).numpy()
            seconds.append(time.perf_counter() - start)
        return 2 * size**3 / min(seconds)


class Peer:
    """The step of the PyTorch program, as the authors train."""

    def __init__(self, args):
        import pytorch_reference as reference
        import torch

        class Views(torch.utils.data.IterableDataset):
            """Batches of views that Pillow makes in the worker that iterates."""

            def __iter__(self):
                arrays = dict(np.load(args.arrays))
                np.random.seed(torch.initial_seed() % 2**32)
                for *views, _ in reference.batches(arrays, settings, args.resolution):
                    yield views

        class ChannelsLast(reference.DASO):
            """DASO on tensors with channels last in memory, which is faster in oneDNN."""

            def view(self, images):
                return super().view(images).contiguous(memory_format=torch.channels_last)

        torch.set_num_threads(os.cpu_count())
        settings = reference.Settings(
            batch=BATCH, mu=RATIO, width=args.width, pretrain=0, period=100
        )
        network = reference.wide_resnet(28, args.width, 10).to(memory_format=torch.channels_last)
        self.learner = ChannelsLast(network, settings, torch.float32)
        for encoder in (self.learner.student.encoder, self.learner.ema.encoder):
            if args.precision == ["bfloat16"]:
                encoder.forward = in_bfloat16(encoder.forward)
            if args.torch_compile:
                encoder.compile()
        loader = torch.utils.data.DataLoader(
            Views(), batch_size=None, num_workers=2, collate_fn=lambda views: views
        )
        self.batches = iter(loader)

    def step(self) -> None:
        """Trains a step."""
        self.learner.step(*next(self.batches))


def in_bfloat16(forward):
    """Returns a network's function under `torch.autocast`, with features in float32."""
    import torch

    def autocast(images):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = forward(images)
        return features.float()

    return autocast


def programs_of(args) -> dict[str, tuple[str, ...]]:
    """Returns the name and the worker's arguments of each program; ours first in each precision."""
    programs = {}
    for precision in args.precision:
        option = f"--precision={precision}"
        programs[f"daso_tf, {precision}"] = ("daso_tf", option)
        if args.repository:
            programs[f"before, {precision}"] = ("daso_tf", option)
        programs[f"pytorch, {precision}"] = ("pytorch", option)
        if args.torch_compile:
            programs[f"torch.compile, {precision}"] = ("pytorch", option, "--torch_compile")
    return programs


def compare(args) -> None:
    """Prints the table of the programs."""
    import pytorch_reference as reference

    np.random.seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/arrays.npz"
        arrays = reference.smooth_pictures(10, args.resolution, head=500, imbalance=100)
        np.savez(path, **{name: value for name, value in arrays.items()})
        settings = [
            f"--arrays={path}",
            f"--width={args.width}",
            f"--resolution={args.resolution}",
            f"--jit_compile={args.jit_compile}",
        ]
        programs = programs_of(args)
        first, workers = {}, {}
        for program, (kind, *options) in programs.items():
            tree = args.repository if program.startswith("before") else ROOT
            workers[program] = Worker(kind, *settings, *options, repository=tree)
            first[program] = workers[program].first_step()
        for program in programs:
            workers[program].ask("step")
        seconds = {program: [] for program in programs}
        for turn in tqdm.trange(args.pairs, desc="turns"):
            for program in programs if turn % 2 else reversed(programs):
                seconds[program].append(workers[program].ask("step"))
        memory = {program: workers[program].ask("memory") for program in programs}
        ours = workers[f"daso_tf, {args.precision[0]}"]
        flops, rate = (ours.ask(question) for question in ("flops", "rate"))
        for worker in workers.values():
            worker.close()

    print(f"\nWRN-28-{args.width}, {args.resolution} pixels, {os.cpu_count()} cores.", end=" ")
    print(f"A step is {flops / 1e9:.0f} GFLOP;", end=" ")
    print(f"matrix products in float32: {rate / 1e9:.0f} GFLOP/s.\n")
    print("| program | s per step (quartiles) | images/s | GFLOP/s | first step, s | peak, MB |")
    print("|---|---|---|---|---|---|")
    for program, times in seconds.items():
        low, median, high = np.percentile(times, (25, 50, 75))
        images = BATCH * (1 + RATIO) / median
        print(
            f"| {program} | {median:.2f} ({low:.2f}-{high:.2f}) | {images:.1f}"
            f" | {flops / median / 1e9:.0f} | {first[program]:.0f} | {memory[program]:,.0f} |"
        )
    print(f"\nRatios of the seconds over {args.pairs} turns:\n")
    print("| program | divided by | median | quartiles |")
    print("|---|---|---|---|")
    for ours in (name for name in programs if name.startswith("daso_tf")):
        for other in programs:
            if other != ours:
                print_ratio(ours, other, seconds)


def print_ratio(one: str, other: str, seconds: dict[str, list[float]]) -> None:
    """Prints a row: how the seconds of two programs compare, turn by turn."""
    ratios = np.divide(seconds[one], seconds[other])
    low, median, high = np.percentile(ratios, (25, 50, 75))
    print(f"| {one} | {other} | {median:.3f} | {low:.3f}-{high:.3f} |")


if __name__ == "__main__":
    sys.exit(main())
