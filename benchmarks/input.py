"""Measures the speed and the memory of training batches, from memory and from files.

    python benchmarks/input.py
    python benchmarks/input.py --files 20000 100000 200000 --no-step

Writes JPEG files of 64x64 pixels to a temporary folder, about 4 kB of disk each. Prints Markdown
tables: images per second, peak memory by number of files, and the share of a training step
(FixMatch on WRN-28-2, 64 labeled and 128 unlabeled images of 32x32 pixels) that is spent waiting
for the batch. Each peak is measured in a separate process.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tqdm
from PIL import Image

LABELED, RATIO = 64, 2
LABELED_FILES, TEST_FILES, CLASSES = 1000, 200, 10


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--files",
        type=int,
        nargs="+",
        default=[20_000, 100_000, 200_000],
        help="numbers of unlabeled files",
    )
    parser.add_argument("--batches", type=int, default=100, help="batches per measurement")
    parser.add_argument("--steps", type=int, default=8, help="training steps to time; 0: none")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # in a separate process
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(**json.loads(options.measure))))
        return

    print("| source | files | images/s | peak memory, MB | above an idle process, MB |")
    print("|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        root, peaks = Path(folder), []
        write(root, max(options.files))
        for count in sorted(options.files):
            for stream in (False, True):
                found = in_own_process(str(root), count, stream, options.batches, 0)
                path = "files" if stream else "memory"
                above = found["peak"] - found["idle"]
                print(
                    f"| {path} | {count:,} | {found['images_per_second']:,.0f} | "
                    f"{found['peak']:,.0f} | {above:,.0f} |",
                    flush=True,
                )
                if stream:
                    peaks.append((count, found["peak"]))
        if len(peaks) > 1:
            slope, _ = np.polyfit(*np.array(peaks).T, 1)
            print(f"\nFrom files, each additional file needs {slope * 1e6:,.0f} bytes.")
        if options.steps:
            print("\n| source | step, s | share waiting for the batch |\n|---|---|---|")
            for stream in (False, True):
                found = in_own_process(str(root), 5000, stream, 0, options.steps)
                path = "files" if stream else "memory"
                print(f"| {path} | {found['step']:.2f} | {found['waiting']:.2%} |", flush=True)


def write(root: Path, count: int) -> None:
    """Writes an image folder with `count` unlabeled files; all images are different."""
    rng = np.random.default_rng(0)
    textures = rng.integers(0, 256, (64, 16, 16, 3), dtype=np.uint8)

    def picture(path: Path, index: int) -> None:
        image = Image.fromarray(np.roll(textures[index % 64], index // 64, axis=(0, 1)))
        image.resize((64, 64)).save(path, quality=80)

    paths = []
    for part, files in (("train", LABELED_FILES), ("test", TEST_FILES), ("unlabeled", count)):
        for index in range(files):
            parent = index % CLASSES if part != "unlabeled" else index // 1000
            paths.append(root / part / f"{parent}" / f"{index}.jpg")
    for parent in {path.parent for path in paths}:
        parent.mkdir(parents=True)
    with ThreadPoolExecutor() as pool:
        list(tqdm.tqdm(pool.map(picture, paths, range(len(paths))), total=len(paths), leave=False))


def in_own_process(*arguments) -> dict:
    """Runs `measure` in a separate process, with the same arguments and result."""
    names = ("root", "count", "stream", "batches", "steps")
    settings = json.dumps(dict(zip(names, arguments, strict=True)))
    done = subprocess.run(
        [sys.executable, __file__, "--measure", settings], check=True, stdout=subprocess.PIPE
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure(root: str, count: int, stream: bool, batches: int, steps: int) -> dict:
    """Loads `count` unlabeled files and times batches of them, or training steps on them."""
    import daso_tf
    from daso_tf.data import loading, pools

    idle = peak()
    # A part of the files in the folder; no file is opened for this.
    selection = loading.select("image_folder", root, loading.LongTail(), seed=0)
    pool, members = selection.parts["unlabeled"]
    fewer = pools.FilePool(pool.files[:count], pool.labels[:count])
    selection.parts["unlabeled"] = (fewer, members[:count])
    size = 64 if batches else 32
    data = selection.read(size, size, stream, max_bad_files=0)
    ready = iter(
        daso_tf.data.training_batches(
            data, batch_size=LABELED, unlabeled_ratio=RATIO, seed=0
        ).repeat()
    )
    next(ready)
    if batches:
        begin = time.perf_counter()
        for _ in range(batches):
            next(ready)
        rate = batches * LABELED * (1 + RATIO) / (time.perf_counter() - begin)
        return {"images_per_second": rate, "peak": peak(), "idle": idle}
    return waiting(data, ready, steps)


def waiting(data, ready, steps: int) -> dict:
    """Trains some steps; returns the seconds per step and the share of waiting for batches."""
    import keras

    import daso_tf

    learner = daso_tf.FixMatch(
        daso_tf.encoders.wide_resnet(28, 2), data.num_classes, mean=data.mean, std=data.std
    )
    learner.compile(keras.optimizers.SGD(0.03, momentum=0.9, nesterov=True), jit_compile=False)
    learner.train_on_batch(*next(ready))
    waited = total = 0.0
    for _ in range(steps):
        begin = time.perf_counter()
        batch = next(ready)
        waited += time.perf_counter() - begin
        learner.train_on_batch(*batch)
        total += time.perf_counter() - begin
    return {"step": total / steps, "waiting": waited / total}


def peak() -> float:
    """Returns the peak memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000  # Linux counts in kB


if __name__ == "__main__":
    main()
