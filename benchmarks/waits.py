"""Measures what a training run waits for between its steps.

    python benchmarks/waits.py

Prints Markdown tables of medians. The first one is about checkpoints of DASO with WRN-28-2, 1,000
classes and queues of 256 features (150 MB): how long one holds the training, and the seconds of
four steps on 8 labeled and 16 unlabeled images and a checkpoint before them. It is written before
the steps, as it was up to d7e03f1, or during them, or not at all. The second one has the processor
seconds of drawing `results.png`. The third one has the processor milliseconds per image of an
evaluation of 1,000 images of 32 x 32 pixels with WRN-28-2 by its batch size, and how often all
evaluations together trace the network. What a table compares takes turns in one process.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import daso_tf
from daso_tf.run.checkpoints import Checkpoints
from daso_tf.run.prediction import Prediction
from daso_tf.run.report import draw
from daso_tf.run.results import Results

STATISTICS = {"mean": (0.5,) * 3, "std": (0.25,) * 3}


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6, help="how often each is measured")
    options = parser.parse_args()
    print("| checkpoint | holds the training, s | with four steps, s |\n|---|---|---|", flush=True)
    for name, found in checkpoints(options.rounds).items():
        held, whole = (statistics.median(seconds) for seconds in zip(*found, strict=True))
        print(f"| {name} | {held:.2f} | {whole:.2f} |")
    print("\n| classes | processor seconds of a drawing |\n|---|---|", flush=True)
    for num_classes in (10, 100, 1000):
        print(f"| {num_classes:,} | {drawing(num_classes):.2f} |", flush=True)
    print("\n| batch | processor ms per image | traces |\n|---|---|---|", flush=True)
    for batch, (milliseconds, traces) in evaluation(options.rounds).items():
        print(f"| {batch} | {milliseconds:.1f} | {traces} |")


def checkpoints(rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Returns how long checkpoints hold the training, and how long they and four steps take."""
    learner = daso_tf.DASO(
        daso_tf.encoders.wide_resnet(28, 2), 1000, queue_size=256, pretrain_steps=0, **STATISTICS
    )
    learner.compile(keras.optimizers.SGD(0.03, momentum=0.9, nesterov=True), jit_compile=False)
    images = np.random.default_rng(0).integers(0, 256, (1100, 32, 32, 3), dtype=np.uint8)
    data = daso_tf.data.from_arrays(images[:1000], np.arange(1000), images[1000:])
    batch = next(iter(daso_tf.data.training_batches(data, batch_size=8, unlabeled_ratio=2, seed=0)))
    learner.train_on_batch(*batch)
    with tempfile.TemporaryDirectory() as folder:
        saved = Checkpoints(folder)
        ways = {
            "none": lambda learner: None,
            "before the steps": saved.save,
            "during the steps": saved.start_saving,
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, save in ways.items():
                begin = time.perf_counter()
                save(learner)
                held = time.perf_counter() - begin
                for _ in range(4):
                    learner.train_on_batch(*batch)
                found[name].append((held, time.perf_counter() - begin))
                saved.wait()
    return found


def drawing(num_classes: int) -> float:
    """Returns the processor seconds of a second drawing of `results.png`, of 20 evaluations."""
    shares = [0.5] * num_classes
    plain = {"accuracy": 0.5, "balanced_accuracy": 0.5, "recall": shares}
    scores = {**plain, "logit_adjusted": plain}
    labels = {"final": {"recall": shares, "precision": shares, "assigned": shares}}
    with tempfile.TemporaryDirectory() as folder:
        counts = np.arange(1, num_classes + 1)
        results = Results(Path(folder, "results.json"), map(str, counts), counts, None)
        results.evaluations = [
            {"step": step, "test": scores, "validation": scores, "pseudo_labels": labels}
            for step in range(20)
        ]
        for _ in range(2):
            begin = time.process_time()
            draw(results, Path(folder, "results.png"))
        return time.process_time() - begin


def evaluation(rounds: int) -> dict[int, tuple[float, int]]:
    """Returns processor milliseconds per image and traces of evaluations, by the batch size."""
    learner = daso_tf.FixMatch(daso_tf.encoders.wide_resnet(28, 2), 10, **STATISTICS)
    learner.compile("sgd", jit_compile=False)
    pixels = np.random.default_rng(0).integers(0, 256, (1000, 32, 32, 3), dtype=np.uint8)
    images = daso_tf.data.Images(pixels, np.zeros(1000, int))
    predictions = {batch: Prediction(learner, batch) for batch in (64, 128, 256, 512)}
    seconds: dict[int, list[float]] = {batch: [] for batch in predictions}
    for _ in range(rounds + 1):  # the first evaluation traces
        for batch, predict in predictions.items():
            begin = time.process_time()
            predict(images)
            seconds[batch].append(time.process_time() - begin)
    return {
        batch: (statistics.median(seconds[batch][1:]) / len(images) * 1e3, predict.trace_count)
        for batch, predict in predictions.items()
    }


if __name__ == "__main__":
    main()
