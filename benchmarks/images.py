"""Measures the seconds and the memory of decoding large images, now and in another version.

    python benchmarks/images.py
    git worktree add --detach /tmp/before d7e03f1
    python benchmarks/images.py --repository=/tmp/before --photographs

Writes images to a temporary folder: of a phone with 12 and with 200 megapixels, and 178 megapixels
of 16-bit gray. Prints a Markdown table: the time to read one at 64 x 64 pixels, and the peak memory
above that of an idle process, for one image and for 8 in parallel. With `--photographs`, it prints
the images per second of JPEG files instead: a photograph, which is a part of scikit-learn, with
sides of 64, 500 and 4,000 pixels, read at 32 or 64 pixels with one thread and with two. Each row is
measured in a process of its own, and the versions take turns.
"""

import argparse
import json
import os
import resource
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
SIZE = (64, 64)
IMAGES = {
    "JPEG, 12 megapixels": ("jpg", "RGB", (4000, 3000)),
    "JPEG, 200 megapixels": ("jpg", "RGB", (16_320, 12_240)),
    "PNG, 16-bit gray, 178 megapixels": ("png", "I;16", (13_350, 13_350)),
    "PNG, transparent, 50 megapixels": ("png", "RGBA", (8_192, 6_144)),
}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parallel", type=int, default=8, help="images at a time")
    parser.add_argument("--repository", help="the other version: its working tree")
    parser.add_argument("--photographs", action="store_true", help="images per second of JPEG")
    parser.add_argument("--repeats", type=int, default=3, help="of --photographs")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)  # in a process of its own
    parser.add_argument("--rate", nargs=4, help=argparse.SUPPRESS)  # the same
    options = parser.parse_args()
    if options.measure:
        path, count = options.measure
        print(json.dumps(measure(path, int(count))))
        return
    if options.rate:
        path, *numbers = options.rate
        print(json.dumps(rate(path, *map(int, numbers))))
        return
    versions = {"before": options.repository} if options.repository else {}
    versions["now"] = str(HERE)
    with tempfile.TemporaryDirectory() as folder:
        if options.photographs:
            photographs(Path(folder), versions, options.repeats)
            return
        print("| image | images | version | seconds per image | peak memory, MB |")
        print("|---|---|---|---|---|", flush=True)
        for name, (suffix, mode, size) in IMAGES.items():
            path = Path(folder, f"image.{suffix}")
            write(path, mode, size)
            for count in (1, options.parallel):
                for version, repository in versions.items():
                    found = in_own_process(repository, "--measure", str(path), str(count))
                    seconds, peak = found or [float("nan")] * 2
                    row = f"| {name} | {count} | {version} | {seconds:.2f} | {peak:,.0f} |"
                    print(row, flush=True)


def photographs(folder: Path, versions: dict[str, str], repeats: int) -> None:
    """Prints the table of images per second."""
    from sklearn.datasets import load_sample_image

    photograph = Image.fromarray(load_sample_image("china.jpg"))
    print(f"| side | read at | threads | {' | '.join(versions)} |")
    print(f"|---|---|---|{'---|' * len(versions)}", flush=True)
    # Sides in pixels, at which they are read, and how many make a second or two.
    for side, size, count in ((64, 32, 4000), (500, 64, 400), (4000, 64, 16)):
        path = folder / f"{side}.jpg"
        photograph.resize((side, side * 3 // 4)).save(path, quality=90)
        for threads in (1, 2):
            rates: dict[str, list[float]] = {version: [] for version in versions}
            for _ in range(repeats):
                for version, repository in versions.items():
                    numbers = map(str, (size, count, threads))
                    rates[version] += in_own_process(repository, "--rate", str(path), *numbers)
            medians = [f"{statistics.median(found):,.0f}" for found in rates.values()]
            print(f"| {side:,} | {size} | {threads} | {' | '.join(medians)} |", flush=True)


def write(path: Path, mode: str, size: tuple[int, int]) -> None:
    """Writes an image with a gradient, which compresses like a photograph without noise."""
    gradient = Image.linear_gradient("L").resize(size)
    if mode == "I;16":
        levels = np.asarray(gradient).astype(np.uint16) * 257
        image = Image.fromarray(levels)
    else:
        image = Image.merge(mode, [gradient] * len(mode))
    image.save(path, quality=90, compress_level=1)


def in_own_process(repository: str, *arguments: str) -> list[float]:
    """Returns the numbers that a new process prints, with the library of a working tree."""
    command = [sys.executable, __file__, *arguments]
    environment = {**os.environ, "PYTHONPATH": repository}
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    return json.loads(run.stdout) if not run.returncode else []


def rate(path: str, size: int, count: int, threads: int) -> list[float]:
    """Returns how many times per second a file is read, after a first time."""
    from concurrent.futures import ThreadPoolExecutor

    from daso_tf.data import decode

    def read(times: int) -> None:
        for _ in range(times):
            decode.read_at_size(path, (size, size))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, [1] * threads))
        start = time.perf_counter()
        list(pool.map(read, [count // threads] * threads))
        return [count / (time.perf_counter() - start)]


def measure(path: str, count: int) -> tuple[float, float]:
    """Returns the seconds per image and the megabytes above an idle process."""
    from daso_tf.data import decode

    idle = _peak()
    start = time.perf_counter()
    _, errors = decode.read_images([path] * count, SIZE)
    seconds = (time.perf_counter() - start) / count
    if errors:
        raise SystemExit(str(errors[0]))
    return seconds, _peak() - idle


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


if __name__ == "__main__":
    main()
