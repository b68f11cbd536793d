"""Measures the seconds and the memory of `daso-tf predict`, now and in another version.

    git worktree add /tmp/before ef70b07
    python benchmarks/predict.py --repository=/tmp/before

Generates 70 phone pictures of 12 megapixels and 2,000 mixed pictures of 0.05 to 0.8 megapixels, and
exports an untrained WRN-28-2 for 32 x 32 pixels. Prints a Markdown table: the median seconds of a
command, start included, and its peak memory. The versions take turns.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from PIL import Image

HERE = Path(__file__).parents[1]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repository", help="the other version: its working tree")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--phone", type=int, default=70, help="pictures of 12 megapixels; 70 took 19 GB before"
    )
    parser.add_argument("--mixed", type=int, default=2000, help="mixed pictures")
    options = parser.parse_args()
    versions = {"before": options.repository} if options.repository else {}
    versions["now"] = str(HERE)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        export(root / "export")
        command = [sys.executable, "-m", "daso_tf.predict", f"--model={root / 'export'}"]
        sizes = {
            f"{options.phone} of 12 megapixels": [(4000, 3000)] * options.phone,
            f"{options.mixed:,} mixed": mixed_sizes(options.mixed),
        }
        print("| pictures | version | seconds | peak memory, MB |")
        print("|---|---|---|---|", flush=True)
        for number, (name, of_set) in enumerate(sizes.items()):
            if not of_set:
                continue
            write(root / str(number), of_set)
            results = {version: [] for version in versions}
            for _ in range(options.repeats):
                for version, repository in versions.items():
                    results[version].append(
                        measure([*command, str(root / str(number))], repository)
                    )
            for version, runs in results.items():
                seconds = statistics.median(second for second, _ in runs)
                peak = max(memory for _, memory in runs)
                print(f"| {name} | {version} | {seconds:.1f} | {peak:,.0f} |", flush=True)


def export(folder: Path) -> None:
    """Exports an untrained network."""
    import keras

    import daso_tf

    keras.utils.set_random_seed(0)
    encoder = daso_tf.encoders.wide_resnet(28, 2, (32, 32, 3))
    daso_tf.FixMatch(encoder, 10, mean=(0.5,) * 3, std=(0.25,) * 3).export(folder)


def mixed_sizes(count: int) -> list[tuple[int, int]]:
    """Returns widths and heights, hardly any of them equal."""
    rng = np.random.default_rng(0)
    return [tuple(map(int, rng.integers(220, 900, 2))) for _ in range(count)]


def write(folder: Path, sizes: list[tuple[int, int]]) -> None:
    """Writes JPEG files with smooth noise, which take as long to decode as photographs."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    for index, size in enumerate(sizes):
        noise = rng.integers(0, 256, (48, 64, 3), np.uint8)
        Image.fromarray(noise).resize(size).save(folder / f"{index:04}.jpg", quality=90)


def measure(command: list[str], repository: str | Path = HERE) -> tuple[float, float]:
    """Returns the seconds and the megabytes of one command of a version."""
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    start = time.perf_counter()
    with subprocess.Popen(
        command, cwd=repository, env=environment, stdout=subprocess.DEVNULL
    ) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return time.perf_counter() - start, usage.ru_maxrss / 1000


if __name__ == "__main__":
    main()
