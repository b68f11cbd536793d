"""Estimates how many unlabeled images each class has, with the network of a finished run.

    daso-tf estimate-distribution --flagfile=RUN/flags.cfg --output=FILE.json

The predictions for validation images, whose classes are known, show which classes the network
confuses. The estimate corrects the predictions for the unlabeled images by that. Training reads
the file with `--unlabeled_distribution=FILE.json`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from daso_tf.commands import terminal
from daso_tf.commands.command_lines import COMMANDS
from daso_tf.data import SemiSupervisedData, estimate_distribution, reading
from daso_tf.data.images import ImageFiles, Images
from daso_tf.data.text import printable
from daso_tf.platform.files import write_atomically
from daso_tf.run.lock import one_run
from daso_tf.run.prediction import Prediction
from daso_tf.run.preparation import prepare
from daso_tf.settings.flags import complete
from daso_tf.settings.settings import Settings


def main(settings: Settings, arguments: list[str]) -> int:
    """Restores the run, writes the estimate, and prints it next to what is known.

    Args:
        settings: Those of the run, and `output`.
        arguments: There are none.

    Returns:
        The exit code.
    """
    if not settings.output:
        return terminal.fail("needs a file for the estimate: --output=FILE.json")
    if not settings.model_dir or not Path(settings.model_dir, "checkpoints").is_dir():
        return terminal.fail(
            f"there is no training run in --model_dir={settings.model_dir}; give the flags of a "
            "run: --flagfile=RUN/flags.cfg"
        )
    settings = complete(settings)
    with one_run(settings):
        run = prepare(settings)
        counts = estimate(run.data, Prediction(run.learner, settings.evaluation_batch_size))
    write(settings.output, run.data.class_names, counts)
    print(table(run.data, counts))
    return 0


def estimate(
    data: SemiSupervisedData, predict: Callable[[Images | ImageFiles], np.ndarray]
) -> np.ndarray:
    """Estimates the number of unlabeled images of each class.

    Args:
        data: The data of a run.
        predict: Returns the class probabilities of images, float `(N, K)`.

    Returns:
        float64 `(K,)`; its sum is the number of unlabeled images.

    Raises:
        ValueError: If a class has no validation image.
    """
    classes = range(data.num_classes)
    labels = np.array([]) if data.validation is None else data.validation.labels
    absent = [data.class_names[k] for k in classes if k not in labels]
    if data.validation is None or absent:
        raise ValueError(
            f"there are no validation images of {', '.join(absent[:5])}, which show what the "
            "network confuses with the class. Train with --validation_size, or with a folder "
            "validation/ that has images of all classes."
        )
    with reading(data):
        validation, unlabeled = predict(data.validation), predict(data.unlabeled)
    return estimate_from(validation, labels, unlabeled)[1]


def estimate_from(
    validation: np.ndarray, labels: np.ndarray, unlabeled: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Estimates the number of unlabeled images of each class from predictions.

    Args:
        validation: float `(M, K)`, predictions for the validation images.
        labels: int `(M,)`, their classes; every class occurs.
        unlabeled: float `(N, K)`, predictions for the unlabeled images.

    Returns:
        The confusion matrix, float `(K, K)`, and the estimate, float64 `(K,)`; see
        `daso_tf.data.estimate_distribution`.
    """
    classes = range(validation.shape[1])
    confusion = np.transpose([validation[labels == k].mean(axis=0) for k in classes])
    return confusion, estimate_distribution(confusion, unlabeled.sum(axis=0, dtype=np.float64))


def write(path: str | Path, class_names: Sequence[str], counts: Iterable[float]) -> None:
    """Writes the estimate as `daso_tf.data.unlabeled_distribution.read` reads it.

    Args:
        path: The JSON file to write.
        class_names: K names.
        counts: K numbers, the unlabeled images of each class.
    """
    text = json.dumps(dict(zip(class_names, map(float, counts), strict=True)), indent=1) + "\n"
    write_atomically(Path(path), lambda file: file.write(text.encode()))


def table(data: SemiSupervisedData, counts: np.ndarray) -> str:
    """Returns a table of each class's share in percent: labeled, estimated and, if known, true."""
    columns = {"labeled %": data.labeled_counts, "estimated %": counts}
    if data.unlabeled_counts is not None:
        columns["true %"] = data.unlabeled_counts
    names = [printable(name) for name in data.class_names]
    width = max(map(len, ("class", *names)))
    lines = [f"{'class':<{width}}" + "".join(f"{name:>13}" for name in columns)]
    for k, class_name in enumerate(names):
        shares = [100 * column[k] / np.sum(column) for column in columns.values()]
        lines.append(f"{class_name:<{width}}" + "".join(f"{share:>13.1f}" for share in shares))
    return "\n".join(lines)


COMMAND = COMMANDS["estimate-distribution"]
