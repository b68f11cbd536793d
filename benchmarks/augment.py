"""Times weak and strong views, in comparison with Pillow, Keras' RandAugment and a training step.

    python benchmarks/augment.py
    python benchmarks/augment.py --batch 448 --rounds 10 --no-step
    .venv-addons/bin/python benchmarks/augment.py --operations

Prints a Markdown table: milliseconds for a batch of views, images per second and, unless --no-step
is given, the time as a share of a training step (FixMatch on WRN-28-2, 64 labeled and 128 unlabeled
images of 32x32 pixels). One process measures all of them in turn, for several rounds. The numbers
are medians.

Pillow processes one image at a time on one core, as a worker of a data loader does. Keras'
RandAugment draws the same two operations for all images of a batch.

--operations times single operations instead, those that TensorFlow Addons has too, at level 5 of
10. The table then has the share of images that are equal to those of Pillow.
"""

import argparse
import functools
import os
import random
import runpy
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

import daso_tf

# The plain statements of the operations that the tests compare with.
pillow_views = SimpleNamespace(
    **runpy.run_path(str(Path(__file__).parents[1] / "tests" / "pillow_views.py"))
)
LABELED, UNLABELED = 64, 128
NAMES = tuple(pillow_views.OPERATIONS)
STEPS = 5


@functools.cache
def reflected(length: int) -> np.ndarray:
    """Returns the positions of a side that is padded by an eighth, by reflection."""
    return np.pad(np.arange(length), length // 8, mode="reflect")


def pillow_weak(image: np.ndarray) -> np.ndarray:
    """Makes the weak view of one image."""
    rows, columns = (
        reflected(length)[start : start + length]
        for length in image.shape[:2]
        for start in [random.randint(0, 2 * (length // 8))]
    )
    if random.random() < 0.5:
        columns = image.shape[1] - 1 - columns
    return image[rows][:, columns]


def pillow_strong(image: np.ndarray) -> np.ndarray:
    """Makes the strong view of one image."""
    view = Image.fromarray(pillow_weak(image))
    for name in random.choices(NAMES, k=2):
        if random.random() < 0.5:
            sign, level = random.choice((-1, 1)), random.randint(1, 9)
            magnitude = pillow_views.magnitude(name, level, sign, view.size)
            view = pillow_views.OPERATIONS[name](view, magnitude)
    x, y = random.uniform(0, view.width), random.uniform(0, view.height)
    return pillow_views.cut_out(np.asarray(view), x, y)


def contenders(images: np.ndarray) -> dict[tuple[str, str], Callable[[int], object]]:
    """Returns the functions that make views of the images, each called with a seed."""
    weak, strong = daso_tf.augment.Weak(), daso_tf.augment.RandAugment()
    batch = tf.constant(images)

    def weak_view(seed):
        return weak(batch, seed=tf.stack([0, seed]))

    def strong_view(seed):
        return strong(weak_view(seed), seed=tf.stack([1, seed]))

    timed = {}
    for name, view, plain in (
        ("weak", weak_view, pillow_weak),
        ("strong", strong_view, pillow_strong),
    ):
        for how, jit_compile in (("daso_tf, XLA", True), ("daso_tf, graph", False)):
            compiled = tf.function(view, jit_compile=jit_compile)
            timed[name, how] = lambda seed, compiled=compiled: compiled(tf.constant(seed)).numpy()
        timed[name, "Pillow loop"] = lambda _, plain=plain: np.stack([plain(i) for i in images])
    if hasattr(keras.layers, "RandAugment"):
        layer = keras.layers.RandAugment(num_ops=2, seed=0)
        function = tf.function(lambda: layer(batch, training=True))
        timed["strong", "keras.layers.RandAugment, graph"] = lambda seed: function().numpy()
    return timed


def addons_operations() -> dict[str, Callable]:
    """Returns the operations of TensorFlow Addons, called with a batch and one magnitude.

    Empty if it is not installed.
    """
    try:
        from tensorflow_addons import image
    except ImportError:
        return {}

    def of_one(function):  # it processes one image; 0 is the color of the area outside of it
        return lambda images, v: tf.map_fn(lambda one: function(one, v, 0), images)

    return {
        "equalize": lambda images, _: image.equalize(images),
        "rotate": lambda images, degrees: image.rotate(images, np.radians(degrees)),
        "sharpness": image.sharpness,
        "shear_x": of_one(image.shear_x),
        "shear_y": of_one(image.shear_y),
        "translate_x": lambda images, v: image.translate(images, [-v, 0]),
        "translate_y": lambda images, v: image.translate(images, [0, -v]),
    }


def operation_contenders(images: np.ndarray) -> dict[tuple[str, str], Callable[[int], object]]:
    """Returns the functions that apply single operations, as `contenders` returns views."""
    batch, addons = tf.constant(images), addons_operations()
    timed = {}
    for name in addons or NAMES:
        level = pillow_views.magnitude(name, 5, 1, images.shape[2:0:-1])
        ours = functools.partial(daso_tf.augment.OPS[name], batch, [level] * len(images))
        compiled = {
            "daso_tf, XLA": tf.function(ours, jit_compile=True),
            "daso_tf, graph": tf.function(ours),
        }
        if addons:
            theirs = functools.partial(addons[name], batch, level)
            compiled["TensorFlow Addons, graph"] = tf.function(theirs)
        for how, function in compiled.items():
            timed[name, how] = lambda _, function=function: function().numpy()
        timed[name, "Pillow loop"] = lambda _, name=name, level=level: np.stack(
            [pillow_views.apply(name, image, level) for image in images]
        )
    return timed


def as_pillow(timed: dict[tuple[int, str, str], Callable]) -> dict[tuple, float]:
    """Returns the share of the images that are equal to those of Pillow."""
    results = {key: function(0) for key, function in timed.items()}
    return {
        (size, name, how): np.mean(np.all(images == results[size, name, "Pillow loop"], (1, 2, 3)))
        for (size, name, how), images in results.items()
    }


def noise(count: int, size: int) -> np.ndarray:
    """Returns images of random values."""
    shape = [count, size, size, 3]
    return np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)


def seconds(function: Callable, *arguments: object) -> float:
    """Times one call."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def training_step() -> Callable[[], object]:
    """Returns a function that trains one step of FixMatch on WRN-28-2, compiled with XLA."""
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    encoder = daso_tf.encoders.build("wrn_28_2", 32, mean, std)
    model = daso_tf.FixMatch(encoder, num_classes=10, mean=mean, std=std)
    model.compile(optimizer=keras.optimizers.SGD(0.03, 0.9, nesterov=True), jit_compile=True)
    labels = np.arange(LABELED, dtype=np.int32) % 10
    images = noise(LABELED, 32), noise(UNLABELED, 32)
    batches = tf.data.Dataset.from_tensors((images, labels)).repeat()
    return lambda: model.fit(batches, steps_per_epoch=1, verbose=0)


def measure(
    timed: dict, step: Callable[[], object] | None, rounds: int
) -> tuple[dict[tuple, float], float | None]:
    """Times everything in turn; returns the medians in seconds and that of the step."""
    for function in timed.values():
        function(-1)  # compiles
    if step:
        step()
    times, steps = {key: [] for key in timed}, []
    for i in range(rounds):
        for key, function in timed.items():
            times[key].append(seconds(function, i))
        if step and i % -(-rounds // STEPS) == 0:
            steps.append(seconds(step))
    medians = {key: statistics.median(values) for key, values in times.items()}
    return medians, statistics.median(steps) if steps else None


def print_table(
    medians: dict[tuple, float], step: float | None, batch: int, equal: dict[tuple, float]
) -> None:
    """Prints one row for each way to make views or to apply an operation."""
    columns = [
        "pixels",
        "operation" if equal else "views",
        "program",
        f"ms for {batch}",
        "images/s",
    ]
    if step:
        columns.append(f"share of a step of {step:.2f} s")
    if equal:
        columns.append("equal to Pillow")
    print(f"| {' | '.join(columns)} |\n|{'|'.join(['---'] * len(columns))}|")
    for (size, view, how), median in medians.items():
        row = [f"{size}x{size}", view, how, f"{1000 * median:.1f}", f"{batch / median:,.0f}"]
        if step:
            row.append(f"{median / step:.2%}")
        if equal:
            row.append(f"{equal[size, view, how]:.0%}")
        print(f"| {' | '.join(row)} |")


def main() -> None:
    """Parses the command line, measures and prints."""
    parser = argparse.ArgumentParser(description="Times the augmentations.")
    parser.add_argument("--batch", type=int, default=UNLABELED, help="views per batch")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[32, 96], help="sides of the images in pixels"
    )
    parser.add_argument("--rounds", type=int, default=30, help="number of measurements")
    parser.add_argument("--no-step", action="store_true", help="do not time a training step")
    parser.add_argument("--operations", action="store_true", help="time single operations")
    options = parser.parse_args()
    listed = operation_contenders if options.operations else contenders
    timed = {
        (size, *key): function
        for size in options.sizes
        for key, function in listed(noise(options.batch, size)).items()
    }
    equal = as_pillow(timed) if options.operations else {}
    step = None if options.no_step or options.operations else training_step()
    medians, step_median = measure(timed, step, options.rounds)
    device = tf.config.get_visible_devices()[-1].device_type
    print(f"{os.cpu_count()} CPU cores, {device}, TensorFlow {tf.__version__}\n")
    print_table(medians, step_median, options.batch, equal)


if __name__ == "__main__":
    main()
