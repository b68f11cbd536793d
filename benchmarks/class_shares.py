"""Measures the estimated class shares of unlabeled pictures where the true ones are known.

    python benchmarks/class_shares.py --pictures=cifar10_jpeg --output=runs/class_shares

The folder `--pictures` has train/<class>/*.jpg, such as CIFAR-10 as JPEG files. Features of a
frozen EfficientNet-Lite0 are computed once. For each seed, long-tailed labeled pictures are drawn,
and unlabeled ones with the same, a uniform and the reversed distribution. The shares are estimated
as in a report: by heads on the features, from out-of-fold predictions of the labeled pictures, or
from validation pictures. Prints a Markdown table: how far the estimates are from the truth (total
variation), and how often their intervals of 95 % contain it. Each line of `rows.jsonl` is an
estimate; the same command again makes only those that are missing.
"""

import argparse
import json
from pathlib import Path

import numpy as np

import daso_tf
from daso_tf.data import read_image
from daso_tf.data.unlabeled_distribution import total_variation
from daso_tf.run.inspection.folds import Head, out_of_fold, refitted
from daso_tf.step.class_shares import Predictions, estimate_class_shares

IMBALANCE = 20
UNLABELED = 1500
DISTRIBUTIONS = ("consistent", "uniform", "reversed")
# Labeled pictures of the largest class, and validation pictures of each class.
SETTINGS = ((30, 0), (30, 10), (150, 0), (150, 20))


def main() -> None:
    """Makes the missing estimates and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--cache_dir", type=Path, default=None)
    parser.add_argument("--per_class", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--resamples", type=int, default=200)
    arguments = parser.parse_args()
    features, labels = features_of(arguments.pictures, arguments.per_class, arguments.cache_dir)
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "rows.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    rows = {tuple(row["key"]): row for row in map(json.loads, lines)}
    for seed in range(arguments.seeds):
        for head, validation in SETTINGS:
            for distribution in DISTRIBUTIONS:
                key = (head, validation, distribution, seed)
                if key in rows:
                    continue
                rows[key] = measured(features, labels, key, arguments.resamples)
                with open(path, "a", encoding="utf-8") as file:
                    file.write(json.dumps(rows[key]) + "\n")
    print(table(list(rows.values())))


def features_of(
    pictures: Path, per_class: int, cache_dir: Path | None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns features and classes of the first pictures of each class."""
    folders = sorted(path for path in (pictures / "train").iterdir() if path.is_dir())
    paths = [sorted(folder.iterdir())[:per_class] for folder in folders]
    images = np.stack([read_image(path) for of_class in paths for path in of_class])
    labels = np.repeat(range(len(folders)), list(map(len, paths)))
    first = np.unique(labels, return_index=True)[1]
    # Validation images have a plain view only.
    data = daso_tf.data.from_arrays(
        images[first], labels[first], images[:1], validation=(images, labels)
    )
    bank = daso_tf.feature_bank(
        data,
        daso_tf.encoders.efficientnet_lite0(),
        weak_views=1,
        strong_views=0,
        resolution=96,
        cache_dir=cache_dir,
        report=print,
    )
    return bank.validation.take(np.arange(len(labels)))[:, 0].astype(np.float64), labels


def measured(features: np.ndarray, labels: np.ndarray, key: tuple, resamples: int) -> dict:
    """Draws the pictures of a setting and estimates their shares."""
    head, validation, distribution, seed = key
    rng = np.random.default_rng(seed)
    num_classes = labels.max() + 1
    tail = IMBALANCE ** (-np.arange(num_classes) / (num_classes - 1))
    shares = {"consistent": tail, "uniform": np.ones(num_classes), "reversed": tail[::-1]}
    asked = shares[distribution] / shares[distribution].sum()
    counts = np.maximum(np.rint(head * tail), 1).astype(int), np.full(num_classes, validation)
    available = [rng.permutation(np.flatnonzero(labels == k)) for k in range(num_classes)]
    left = [len(of) - n - m for of, n, m in zip(available, *counts, strict=True)]
    unlabeled_counts = np.floor(asked * min(UNLABELED, (left / asked).min())).astype(int)
    parts = []
    for of_classes in (*counts, unlabeled_counts):
        parts.append(np.concatenate([of[:n] for of, n in zip(available, of_classes, strict=True)]))
        available = [of[n:] for of, n in zip(available, of_classes, strict=True)]
    labeled, held_out, unlabeled = parts
    model = Head(features[labeled], labels[labeled], num_classes)
    asked_logits = np.log(model(features[unlabeled]))
    if validation:
        known = Predictions(np.log(model(features[held_out])), labels[held_out], asked_logits)
        found = estimate_class_shares(known, resamples=resamples)
    else:
        own = out_of_fold(features[labeled], labels[labeled], num_classes)
        known = Predictions(np.log(own.probabilities), labels[labeled], asked_logits)
        more = refitted(features[labeled], labels[labeled], features[unlabeled], num_classes)
        found = estimate_class_shares(known, more, resamples=resamples)
    truth = unlabeled_counts / unlabeled_counts.sum()
    row = {
        "key": list(key),
        "labels": len(labeled),
        "unlabeled": len(unlabeled),
        "self_check": found.self_check,
        "of_labeled": total_variation(counts[0] / counts[0].sum(), truth),
        "of_predicted": total_variation(
            np.bincount(asked_logits.argmax(axis=1), minlength=num_classes) / len(unlabeled), truth
        ),
    }
    for name, estimate in (("em", found.em), ("matrix", found.matrix)):
        if estimate is not None:
            row[name] = {
                "total_variation": total_variation(estimate.value, truth),
                "covered": float(((estimate.low <= truth) & (truth <= estimate.high)).mean()),
                "width": float((estimate.high - estimate.low).mean()),
            }
    return row


def table(rows: list[dict]) -> str:
    """Returns the means over the seeds as a Markdown table."""
    lines = [
        "| labels | validation | unlabeled | seeds | labeled shares | predicted | EM | covered | "
        "width | none | matrix | covered | width |",
        "|---" * 13 + "|",
    ]
    for head, validation in SETTINGS:
        for distribution in DISTRIBUTIONS:
            chosen = [row for row in rows if row["key"][:3] == [head, validation, distribution]]
            if not chosen:
                continue
            cells = [
                str(chosen[0]["labels"]),
                f"{validation} per class" if validation else "out-of-fold",
                distribution,
                str(len(chosen)),
                *(f"{np.mean([r[n] for r in chosen]):.3f}" for n in ("of_labeled", "of_predicted")),
            ]
            for name in ("em", "matrix"):
                there = [row[name] for row in chosen if name in row]
                for number, digits in (("total_variation", 3), ("covered", 2), ("width", 3)):
                    mean = np.mean([of[number] for of in there]) if there else None
                    cells.append("-" if mean is None else f"{mean:.{digits}f}")
                if name == "em":
                    cells.append(str(len(chosen) - len(there)))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
