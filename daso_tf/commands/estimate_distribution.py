"""Estimates how many unlabeled images of each class there are, by a finished training run.

    python -m daso_tf.estimate_distribution --flagfile=RUN/flags.cfg --output=FILE.json

What the run's network takes validation images of each class for tells how to read what it takes
the unlabeled images for. The file is for `--unlabeled_distribution=FILE.json` of `daso_tf.train`.
Exit code: 0 written, 2 nothing could be begun.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from absl import flags

from daso_tf.commands import terminal, train
from daso_tf.data import evaluation_batches, reading, unlabeled_distribution
from daso_tf.pseudo_labels.darp import estimate_distribution
from daso_tf.settings.flags import FLAGS


def main(argv: list[str]) -> int:
    """Restores the run, writes the estimate and prints it beside what is known.

    Args:
        argv: the program's name; everything else has to be a flag.

    Returns:
        The exit code.
    """
    try:
        if not FLAGS.output:
            raise ValueError("say where the estimate goes: --output=FILE.json")
        if not FLAGS.model_dir or not Path(FLAGS.model_dir, "checkpoints").is_dir():
            raise ValueError(
                f"there is no training run in --model_dir={FLAGS.model_dir}; give the flags of "
                "one, --flagfile=RUN/flags.cfg"
            )
        run = train.prepare(argv[1:])
        counts = estimate(run, FLAGS.evaluation_batch_size)
        unlabeled_distribution.write(FLAGS.output, run.data.class_names, counts)
    except (ValueError, OSError) as error:
        return terminal.fail(error)
    print(table(run.data, counts))
    return 0


def estimate(run: train.Run, batch_size: int) -> np.ndarray:
    """Estimates the unlabeled images of each class.

    Args:
        run: a training run, restored.
        batch_size: images a batch of the predictions.

    Returns:
        float64 `(K,)`; sums to the number of unlabeled images.

    Raises:
        ValueError: the run has no validation image of some class.
    """
    data = run.data
    classes = range(data.num_classes)
    absent = (
        data.class_names
        if data.validation is None
        else [data.class_names[k] for k in classes if k not in data.validation.labels]
    )
    if absent:
        raise ValueError(
            f"{run.model_dir} has no validation images of {', '.join(absent[:5])}, by which to "
            "measure what the network takes each class for. Train with --validation_size, or with "
            "a folder validation/ that has all classes."
        )
    with reading(data):
        predictions = {
            name: run.learner.predict(evaluation_batches(images, batch_size), verbose=0)
            for name, images in (("validation", data.validation), ("unlabeled", data.unlabeled))
        }
    confusion = [
        predictions["validation"][data.validation.labels == k].mean(axis=0) for k in classes
    ]
    predicted = predictions["unlabeled"].sum(axis=0, dtype=np.float64)
    return estimate_distribution(np.transpose(confusion), predicted)


def table(data, counts: np.ndarray) -> str:
    """Writes the classes' shares in percent: labeled, estimated and, where known, true."""
    columns = {"labeled %": data.labeled_counts, "estimated %": counts}
    if data.unlabeled_counts is not None:
        columns["true %"] = data.unlabeled_counts
    width = max(map(len, ("class", *data.class_names)))
    lines = [f"{'class':<{width}}" + "".join(f"{name:>13}" for name in columns)]
    for k, class_name in enumerate(data.class_names):
        shares = [100 * column[k] / np.sum(column) for column in columns.values()]
        lines.append(f"{class_name:<{width}}" + "".join(f"{share:>13.1f}" for share in shares))
    return "\n".join(lines)
