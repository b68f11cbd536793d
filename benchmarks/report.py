"""Measures the seconds and the memory of `daso-tf report` on many unlabeled pictures.

    python benchmarks/report.py --unlabeled 10000 100000

Generates labeled pictures of three classes and the unlabeled ones, JPEG files of 64 x 48 pixels,
trains WRN-10-1 at 16 x 16 pixels for 20 steps, and prints a Markdown table: seconds of the whole
command, start included, and its peak memory.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from predict import measure

CLASSES = ("bar", "dot", "ring")
LABELED = 30  # of each class
FLAGS = "--encoder=wrn_10_1 --resolution=16 --steps=20 --evaluate_every=20 --noreport --stream=true"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--unlabeled", type=int, nargs="+", default=[10_000, 100_000])
    options = parser.parse_args()
    print("| unlabeled pictures | seconds | peak memory, MB | report.html, MB |")
    print("|---|---|---|---|", flush=True)
    for count in options.unlabeled:
        with tempfile.TemporaryDirectory() as folder:
            pictures, run = Path(folder) / "pictures", Path(folder) / "run"
            for name in CLASSES:
                write(pictures / "train" / name, LABELED, hash_of(name))
            write(pictures / "unlabeled", count, 0)
            flags = ["--dataset=image_folder", f"--data_dir={pictures}", f"--model_dir={run}"]
            started = [sys.executable, "-m", "daso_tf"]
            subprocess.run(
                [*started, "train", *flags, *FLAGS.split()], check=True, stdout=subprocess.DEVNULL
            )
            seconds, peak = measure([*started, "report", str(run)])
            size = (run / "report.html").stat().st_size / 1e6
            print(f"| {count:,} | {seconds:.0f} | {peak:,.0f} | {size:.1f} |", flush=True)


def hash_of(name: str) -> int:
    """Returns a number for a name, the same in every process."""
    return int.from_bytes(name.encode(), "big")


def write(folder: Path, count: int, seed: int) -> None:
    """Writes pictures with smooth noise, all different."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for index in range(count):
        noise = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
        noise.resize((64, 48), Image.Resampling.BICUBIC).save(folder / f"{index:06}.jpg")


if __name__ == "__main__":
    main()
