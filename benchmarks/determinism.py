"""Measures what the bits of a training run depend on.

    python benchmarks/determinism.py
    python benchmarks/determinism.py --steps=50 --encoder=wrn_28_2

Trains the digits with DASO in a process of its own per row, each with one change against the first,
and prints a Markdown table: whether all variables after the last step are the same bits, and else
the largest difference of a weight, relative to the largest distance that a weight moved after the
first step.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

# What is changed: environment variables, flags, and a command in front.
ROWS = {
    "the same command again": ({}, [], []),
    "1 thread (`TF_NUM_INTRAOP_THREADS=1`)": ({"TF_NUM_INTRAOP_THREADS": "1"}, [], []),
    "4 threads (`TF_NUM_INTRAOP_THREADS=4`)": ({"TF_NUM_INTRAOP_THREADS": "4"}, [], []),
    "1 core (`taskset`)": ({}, [], ["taskset", "-c", "0"]),
    "instructions up to AVX2 (`ONEDNN_MAX_CPU_ISA=AVX2`)": ({"ONEDNN_MAX_CPU_ISA": "AVX2"}, [], []),
    "instructions up to SSE4.1 (`ONEDNN_MAX_CPU_ISA=SSE41`)": (
        {"ONEDNN_MAX_CPU_ISA": "SSE41"},
        [],
        [],
    ),
    "without oneDNN (`TF_ENABLE_ONEDNN_OPTS=0`)": ({"TF_ENABLE_ONEDNN_OPTS": "0"}, [], []),
    "`--jit_compile=true`": ({}, ["--jit_compile=true"], []),
    "`--jit_compile=true`, 1 thread": (
        {"TF_NUM_INTRAOP_THREADS": "1"},
        ["--jit_compile=true"],
        [],
    ),
    "`--jit_compile=batch_norm`": ({}, ["--jit_compile=batch_norm"], []),
    "`--steps_per_execution=5`": ({}, ["--steps_per_execution=5"], []),
    "`--keep_checkpoints=5 --evaluation_batch_size=50`": (
        {},
        ["--keep_checkpoints=5", "--evaluation_batch_size=50"],
        [],
    ),
}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--encoder", default="wrn_10_1")
    options = parser.parse_args()
    flags = [
        "--flagfile=digits_lt.cfg",
        f"--encoder={options.encoder}",
        f"--steps={options.steps}",
        "--pretrain_steps=5",
        f"--evaluate_every={options.steps}",
        "--jit_compile=false",
    ]
    with tempfile.TemporaryDirectory() as folder:
        start = trained(Path(folder, "start"), [*flags, "--steps=1", "--pretrain_steps=0"], {}, [])
        first = trained(Path(folder, "first"), flags, {}, [])
        print("| compared with the first run | bits | largest difference of the weights |")
        print("|---|---|---|", flush=True)
        for name, (environment, more, front) in ROWS.items():
            other = trained(
                Path(folder, name.replace("/", " ")), [*flags, *more], environment, front
            )
            print(f"| {name} | {compared(first, other, start)} |", flush=True)


def trained(
    model_dir: Path, flags: list[str], environment: dict[str, str], front: list[str]
) -> dict[str, np.ndarray]:
    """Returns the variables after a run in a process of its own."""
    command = [*front, sys.executable, "-m", "daso_tf.train", *flags, f"--model_dir={model_dir}"]
    subprocess.run(command, env=os.environ | environment, check=True, capture_output=True)
    newest = max((model_dir / "checkpoints").iterdir())
    with np.load(newest) as file:
        return dict(file)


def compared(
    first: dict[str, np.ndarray], other: dict[str, np.ndarray], start: dict[str, np.ndarray]
) -> str:
    """Returns two columns of the table."""
    if all(np.array_equal(first[name], other[name]) for name in first):
        return "the same | 0"
    weights = [name for name in first if name.startswith("network/")]
    moved = max(np.abs(first[name] - start[name]).max() for name in weights)
    differs = max(np.abs(first[name] - other[name]).max() for name in weights)
    return f"differ | {differs / moved:.1e}"


if __name__ == "__main__":
    main()
