"""Compares what is trained on the cached features of a frozen encoder: heads, methods, targets.

    python benchmarks/frozen_features.py --pictures=cifar10_jpeg --output=runs/frozen_features

The folder `--pictures` has train/<class>/*.jpg and test/<class>/*.jpg, such as CIFAR-10 as JPEG
files. Each seed draws 500 labeled pictures of the largest class and 2,000 unlabeled ones, both with
an imbalance ratio of 20, and trains everything on the features of EfficientNet-Lite0 at 96 pixels.
`--labeled_head` and `--unlabeled_head` change the numbers.

Prints a Markdown table of balanced test accuracies at the last step, in %: of all classes and of
the thirds of the classes by labeled pictures; mean over the seeds with its standard error. Each
line of `rows.jsonl` is an answer; the same command again makes only those that are missing.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev

import keras
import numpy as np

from daso_tf.data import BankedData
from daso_tf.pseudo_labels.teacher import rarity_weights
from daso_tf.run import banks
from daso_tf.run.prediction import Prediction
from daso_tf.run.selected import selected
from daso_tf.run.twin import fitted, twin_settings
from daso_tf.settings.build import build_learner
from daso_tf.settings.flags import TRAIN, complete
from daso_tf.settings.settings import Settings, parse
from daso_tf.step import closed_forms
from daso_tf.step.calibration import thirds

# What a row trains; the default is the student of the LDA teacher with a hidden layer of 256 units.
# "labels only" is the same network without the unlabeled pictures.
HEADS = {
    "hidden layer": "",
    "linear": "--adapter=none",
    "linear, from a probe": "--adapter=none --classifier_weights=probe",
    "cosine": "--adapter=none --classifier=cosine",
    "cosine, from a probe": "--adapter=none --classifier=cosine --classifier_weights=probe",
    "hidden layer, cosine": "--classifier=cosine",
    "hidden layer, weight decay 5e-4": "--weight_decay=5e-4",
    "hidden layer, weight decay 3e-2": "--weight_decay=3e-2",
}
METHODS = {
    "fixmatch, threshold 0.95": "--learner=fixmatch --pseudo_labeler=linear",
    "fixmatch, threshold 0.7": "--learner=fixmatch --pseudo_labeler=linear"
    " --confidence_threshold=0.7",
    "fixmatch, no threshold": "--learner=fixmatch --pseudo_labeler=linear --confidence_threshold=0",
    "fixmatch + freematch": "--learner=fixmatch --pseudo_labeler=linear --threshold=freematch",
    "fixmatch + softmatch": "--learner=fixmatch --pseudo_labeler=linear --threshold=softmatch",
    "fixmatch + alignment": "--learner=fixmatch --pseudo_labeler=distribution_alignment",
    "fixmatch + daso": "--learner=fixmatch --pseudo_labeler=daso --pretrain_steps=80"
    " --distribution_period=10",
    "fixmatch + simpro": "--learner=fixmatch --pseudo_labeler=simpro",
    "student that teaches itself": "--learner=student --pseudo_labeler=linear",
}
TARGETS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sharper targets (temperature 0.5)": lambda p: _normalized(p**2),
    "softer targets (temperature 2)": lambda p: _normalized(p**0.5),
    "hard targets": lambda p: np.eye(p.shape[1], dtype=p.dtype)[p.argmax(axis=1)],
}


def main() -> None:
    """Trains what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, required=True, help="train/<class>, test/<class>")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--cache_dir", type=Path, default=None)
    parser.add_argument("--labeled_head", type=int, default=500)
    parser.add_argument("--unlabeled_head", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "rows.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    of = (arguments.labeled_head, arguments.unlabeled_head)
    for seed in range(arguments.seeds):
        finished = {row["answer"] for row in rows if (row["seed"], *row["of"]) == (seed, *of)}
        with path.open("a") as file:
            for name, recall in answers(arguments, seed, finished):
                rows.append({"seed": seed, "of": of, "answer": name, "recall": recall})
                file.write(json.dumps(rows[-1]) + "\n")
                file.flush()
    print(table([row for row in rows if tuple(row["of"]) == of and row["seed"] < arguments.seeds]))


def answers(arguments: argparse.Namespace, seed: int, finished: set[str]):
    """Yields the names of the answers that are missing, and the recall of each class."""

    def settings_of(flags: str) -> Settings:
        texts = [
            "--dataset=image_folder",
            f"--data_dir={arguments.pictures}",
            f"--model_dir={arguments.output / 'none'}",
            f"--labeled_head={arguments.labeled_head}",
            f"--unlabeled_head={arguments.unlabeled_head}",
            "--labeled_imbalance=20",
            "--unlabeled_imbalance=20",
            "--encoder=efficientnet_lite0",
            "--freeze_encoder",
            f"--seed={seed}",
            *([f"--cache_dir={arguments.cache_dir}"] if arguments.cache_dir else []),
            *flags.split(),
        ]
        return complete(parse(texts, TRAIN.values())[0])

    # The views of FixMatch with SimPro contain those of all others.
    settings = settings_of("--learner=fixmatch --pseudo_labeler=simpro")
    images = selected(settings).read(settings.source_size, settings.resolution, None, 10)
    data = banks.banked(settings, images)
    assert isinstance(data, BankedData) and data.test is not None
    labels = data.test.labels

    def recall(predicted: np.ndarray) -> list[float]:
        return [float((predicted[labels == k] == k).mean()) for k in range(data.num_classes)]

    if not set(closed_forms.NAMES.values()) <= finished:
        for name, predicted in closed_forms.answers(data, data.test).items():
            yield closed_forms.NAMES[name], recall(predicted)
    runs: list[tuple[str, Settings, Callable | None]] = []
    for name, flags in HEADS.items():
        student = settings_of(flags)
        runs += [(f"student: {name}", student, None)]
        runs += [(f"labels only: {name}", twin_settings(student), None)]
    runs += [(f"student: {name}", settings_of(""), change) for name, change in TARGETS.items()]
    runs += [(name, settings_of(flags), None) for name, flags in METHODS.items()]
    for name, of_run, change in runs:
        if name not in finished:
            learner = trained(of_run, data, change)
            yield name, recall(Prediction(learner, 1000)(data.test).argmax(axis=1))


def trained(settings: Settings, data: BankedData, change: Callable | None):
    """Trains a learner for all its steps; `change` is applied to the targets of its teacher."""
    keras.utils.set_random_seed(settings.seed)
    learner = build_learner(settings, data)
    if change is not None:
        labeler = learner.pseudo_labeler
        targets = change(np.asarray(labeler.targets))
        labeler.targets.assign(targets)
        labeler.weights_of_images.assign(rarity_weights(targets, labeler.class_distribution))
    return fitted(learner, settings, data)


def _normalized(weights: np.ndarray) -> np.ndarray:
    return weights / weights.sum(axis=1, keepdims=True)


def table(rows: list[dict]) -> str:
    """Returns the means over the seeds as a Markdown table, the best first."""
    lines = ["| answer | seeds | all | head | medium | tail |", "|---" * 6 + "|"]
    shown = []
    for name in dict.fromkeys(row["answer"] for row in rows):
        recalls = np.array([row["recall"] for row in rows if row["answer"] == name])
        groups = {"all": list(range(recalls.shape[1]))}
        groups |= thirds(np.arange(recalls.shape[1])[::-1])  # the classes are sorted by pictures
        cells = []
        for members in groups.values():
            values = (100 * recalls[:, list(members)].mean(axis=1)).tolist()
            error = f" ± {stdev(values) / len(values) ** 0.5:.1f}" if len(values) > 1 else ""
            cells.append(f"{mean(values):.1f}{error}")
        shown.append((recalls.mean(), f"| {name} | {len(recalls)} | {' | '.join(cells)} |"))
    return "\n".join([*lines, *(line for _, line in sorted(shown, reverse=True))])


if __name__ == "__main__":
    main()
