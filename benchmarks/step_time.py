"""Times a training step of the library and the same step written plainly in PyTorch.

    pip install ".[bench]"
    python benchmarks/step_time.py

It trains FixMatch + DASO with the settings of flags/cifar10_lt.cfg (WRN-28-2, 64
labeled and 128 unlabeled images) in two processes that take turns, step by step: `daso_tf` as in
the train command, and `benchmarks/pytorch_reference.py` with channels last and Pillow's
augmentation in DataLoader workers, as the authors train. While one process computes, the other one
waits. Prints seconds per step, images per second, peak memory, the time to the first step and the
ratio of both programs.
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
PROGRAMS = ("daso_tf", "pytorch")


def main() -> int:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=15, help="steps of each program")
    parser.add_argument("--jit_compile", default="auto", help="as for daso-tf train")
    parser.add_argument("--width", type=int, default=2, help="width of the WRN-28")
    parser.add_argument("--resolution", type=int, default=32, help="side of the images in pixels")
    parser.add_argument("--worker", choices=PROGRAMS, help=argparse.SUPPRESS)
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

    def __init__(self, kind: str, *arguments: str, program: str = __file__):
        self.started = time.perf_counter()
        command = [sys.executable, program, f"--worker={kind}", *arguments]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
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
        loader = torch.utils.data.DataLoader(
            Views(), batch_size=None, num_workers=2, collate_fn=lambda views: views
        )
        self.batches = iter(loader)

    def step(self) -> None:
        """Trains a step."""
        self.learner.step(*next(self.batches))


def compare(args) -> None:
    """Prints the table of both programs."""
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
        first, workers = {}, {}
        for program in PROGRAMS:
            workers[program] = Worker(program, *settings)
            first[program] = workers[program].first_step()
        for program in PROGRAMS:
            workers[program].ask("step")
        seconds = {program: [] for program in PROGRAMS}
        for pair in tqdm.trange(args.pairs, desc="pairs"):
            for program in PROGRAMS if pair % 2 else reversed(PROGRAMS):
                seconds[program].append(workers[program].ask("step"))
        memory = {program: workers[program].ask("memory") for program in PROGRAMS}
        flops, rate = (workers["daso_tf"].ask(question) for question in ("flops", "rate"))
        for worker in workers.values():
            worker.close()

    print(f"\nWRN-28-{args.width}, {args.resolution} pixels, {os.cpu_count()} cores.", end=" ")
    print(f"A step is {flops / 1e9:.0f} GFLOP; matrix products: {rate / 1e9:.0f} GFLOP/s.\n")
    print(
        "| program | s per step | images/s | GFLOP/s | of matrix rate | first step, s | peak, MB |"
    )
    print("|---|---|---|---|---|---|---|")
    for program, times in seconds.items():
        low, median, high = np.percentile(times, (25, 50, 75))
        images = BATCH * (1 + RATIO) / median
        print(
            f"| {program} | {median:.2f} ({low:.2f}-{high:.2f}) | {images:.1f}"
            f" | {flops / median / 1e9:.0f} | {flops / median / rate:.0%} | {first[program]:.0f}"
            f" | {memory[program]:,.0f} |"
        )
    ratios = np.divide(seconds["daso_tf"], seconds["pytorch"])
    low, median, high = np.percentile(ratios, (25, 50, 75))
    print(f"\nRatio daso_tf / pytorch over {len(ratios)} pairs: median {median:.3f}", end=" ")
    print(f"(quartiles {low:.3f} and {high:.3f}).")


if __name__ == "__main__":
    sys.exit(main())
