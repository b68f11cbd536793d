"""Measures what a training run waits for between its steps, now and in another version.

    git worktree add --detach /tmp/before d7e03f1
    python benchmarks/waits.py --repository=/tmp/before

Prints Markdown tables. The first one has the seconds that a checkpoint of DASO with WRN-28-2, 1,000
classes and queues of 256 features (150 MB) holds the training, the seconds of 16 steps on 8 labeled
and 16 unlabeled images without and with a checkpoint after every fourth step, and the seconds of
drawing `results.png`. The second one has the images per second of an evaluation of 1,000 images of
32 x 32 pixels with WRN-28-2 by its batch size, and how often four evaluations trace the network.
The versions take turns, each in processes of its own.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

HERE = Path(__file__).parents[1]
STEPS, EVERY = 16, 4
STATISTICS = {"mean": (0.5,) * 3, "std": (0.25,) * 3}


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repository", help="the other version: its working tree")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="*", default=[64, 128, 256, 512])
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # in a process of its own
    options = parser.parse_args()
    if options.measure:
        waits = {"between": between_steps, "evaluation": lambda: evaluation(options.batches)}
        print(json.dumps(waits[options.measure]()))
        return
    versions = {"before": options.repository} if options.repository else {}
    versions["now"] = str(HERE)
    found: dict[str, list[dict[str, float]]] = {version: [] for version in versions}
    for _ in range(options.repeats):
        for version, repository in versions.items():
            found[version].append(in_own_process(repository, "--measure=between"))
    print(f"| seconds | {' | '.join(versions)} |\n|---|{'---|' * len(versions)}")
    for name in found["now"][0]:
        medians = [statistics.median(run[name] for run in runs) for runs in found.values()]
        print(f"| {name} | {' | '.join(f'{seconds:.2f}' for seconds in medians)} |", flush=True)
    if options.batches:
        batches = ["--batches", *map(str, options.batches)]
        print("\n| batch | images/s | traces |\n|---|---|---|")
        for batch, numbers in in_own_process(str(HERE), "--measure=evaluation", *batches).items():
            print(f"| {batch} | {numbers[0]:,.0f} | {numbers[1]} |", flush=True)


def in_own_process(repository: str, *arguments: str) -> dict:
    """Returns what a new process prints, with the library of a working tree."""
    done = subprocess.run(
        [sys.executable, __file__, *arguments],
        check=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": repository},
    )
    return json.loads(done.stdout.splitlines()[-1])


def between_steps() -> dict[str, float]:
    """Returns the seconds of checkpoints, steps and drawings."""
    import keras

    import daso_tf
    from daso_tf.run.callbacks import SaveCheckpoint
    from daso_tf.run.checkpoints import Checkpoints

    learner = daso_tf.DASO(
        daso_tf.encoders.wide_resnet(28, 2), 1000, queue_size=256, pretrain_steps=0, **STATISTICS
    )
    learner.compile(keras.optimizers.SGD(0.03, momentum=0.9, nesterov=True), jit_compile=False)
    images = np.random.default_rng(0).integers(0, 256, (1100, 32, 32, 3), dtype=np.uint8)
    data = daso_tf.data.from_arrays(images[:1000], np.arange(1000), images[1000:])
    batch = next(iter(daso_tf.data.training_batches(data, batch_size=8, unlabeled_ratio=2, seed=0)))
    learner.train_on_batch(*batch)

    def train(save) -> tuple[float, list[float]]:
        held = []
        begin = time.perf_counter()
        for step in range(STEPS):
            learner.train_on_batch(*batch)
            if (step + 1) % EVERY == 0:
                before = time.perf_counter()
                save()
                held.append(time.perf_counter() - before)
        return time.perf_counter() - begin, held

    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(folder)
        callback = SaveCheckpoint(checkpoints)
        callback.set_model(learner)
        without, _ = train(lambda: None)
        with_checkpoints, held = train(lambda: callback.on_epoch_end(0))
        checkpoints.paths()  # the process ends when the last one is written
    found = {
        "a checkpoint holds the training": statistics.median(held),
        f"{STEPS} steps": without,
        f"{STEPS} steps with {STEPS // EVERY} checkpoints": with_checkpoints,
    }
    return found | {f"`results.png`, {k:,} classes": drawing(k) for k in (10, 100, 1000)}


def drawing(num_classes: int) -> float:
    """Returns the seconds of drawing `results.png` after 20 evaluations, not for the first time."""
    from daso_tf.run.report import draw
    from daso_tf.run.results import Results

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
            begin = time.perf_counter()
            draw(results, Path(folder, "results.png"))
        return time.perf_counter() - begin


def evaluation(batches: list[int]) -> dict[int, tuple[float, int]]:
    """Returns images per second and traces of four evaluations, by the size of a batch."""
    import daso_tf
    from daso_tf.run.prediction import Prediction

    learner = daso_tf.FixMatch(daso_tf.encoders.wide_resnet(28, 2), 10, **STATISTICS)
    learner.compile("sgd", jit_compile=False)
    pixels = np.random.default_rng(0).integers(0, 256, (1000, 32, 32, 3), dtype=np.uint8)
    images = daso_tf.data.Images(pixels, np.zeros(1000, int))
    predictions = {batch: Prediction(learner, batch) for batch in batches}
    seconds: dict[int, list[float]] = {batch: [] for batch in batches}
    for _ in range(4):  # the sizes take turns; the first evaluation traces
        for batch, predict in predictions.items():
            begin = time.perf_counter()
            predict(images)
            seconds[batch].append(time.perf_counter() - begin)
    return {
        batch: (len(images) / statistics.median(seconds[batch][1:]), predict.trace_count)
        for batch, predict in predictions.items()
    }


if __name__ == "__main__":
    main()
