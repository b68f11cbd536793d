"""Measures the seconds and the memory of decoding large images.

    python benchmarks/images.py

Writes images to a temporary folder: of a phone with 12 and with 200 megapixels, and 178 megapixels
of 16-bit gray. Prints a Markdown table: the time to read one at 64 x 64 pixels, and the peak memory
above that of an idle process, for one image and for 8 in parallel. Each row is measured in a
process of its own.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from PIL import Image

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
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)  # in a process of its own
    options = parser.parse_args()
    if options.measure:
        path, count = options.measure
        print(json.dumps(measure(path, int(count))))
        return
    print("| image | images | seconds per image | peak memory, MB |")
    print("|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, (suffix, mode, size) in IMAGES.items():
            path = Path(folder, f"image.{suffix}")
            write(path, mode, size)
            for count in (1, options.parallel):
                seconds, peak = in_own_process(path, count)
                print(f"| {name} | {count} | {seconds:.2f} | {peak:,.0f} |", flush=True)


def write(path: Path, mode: str, size: tuple[int, int]) -> None:
    """Writes an image with a gradient, which compresses like a photograph without noise."""
    gradient = Image.linear_gradient("L").resize(size)
    if mode == "I;16":
        levels = np.asarray(gradient).astype(np.uint16) * 257
        image = Image.fromarray(levels)
    else:
        image = Image.merge(mode, [gradient] * len(mode))
    image.save(path, quality=90, compress_level=1)


def in_own_process(path: Path, count: int) -> list[float]:
    """Returns what `measure` returns in a new process."""
    command = [sys.executable, __file__, "--measure", str(path), str(count)]
    run = subprocess.run(command, capture_output=True, text=True)
    return json.loads(run.stdout) if not run.returncode else [float("nan")] * 2


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
