"""A model that answers as `daso-tf predict --coverage` and `--prior` ask for.

Both are functions of the model's own probabilities and of what its export says about them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import tensorflow as tf

from daso_tf.commands.served_model import ServedModel
from daso_tf.data.text import printable
from daso_tf.data.unlabeled_distribution import em_shares
from daso_tf.run.held_out import FILE, HeldOut, read
from daso_tf.settings.settings import Settings
from daso_tf.step.conformal import SetThresholds, fewest_images

ESTIMATE = "estimate"
CLASS_SETS = "class_sets"  # the output with the sets, bool `(batch, K)`
_MOST_NAMED = 10  # classes in a message


def of_export(settings: Settings) -> HeldOut | None:
    """Returns what an export says about its answers, where a flag needs it; None where none does.

    Args:
        settings: The flags of `daso-tf predict`.

    Raises:
        ValueError: If the model does not say what the flag needs.
    """
    asked = {name: settings[name] for name in ("coverage", "prior") if settings[name] is not None}
    if not asked:
        return None
    flag, value = next(iter(asked.items()))
    found = read(settings.model)
    if found is None:
        raise ValueError(
            f"--{flag}={value} needs the folder of an export that says how its answers are to be "
            f"read ({FILE}), and {settings.model!r} has no such file. daso-tf export RUN "
            "writes it"
        )
    advice = "train with validation pictures (--validation_size) and export again"
    if found.scores is None and settings.coverage is not None:
        raise ValueError(
            f"--coverage={settings.coverage} needs scores of pictures that the network has not "
            f"learned, and {settings.model!r} was exported without validation pictures; {advice}"
        )
    if found.calibrator is None and settings.prior == ESTIMATE:
        raise ValueError(
            f"--prior={ESTIMATE} needs calibrated probabilities, and {settings.model!r} was "
            f"exported without validation pictures; {advice}, or give the shares in a file"
        )
    if found.class_distribution is None and settings.prior is not None:
        raise ValueError(
            f"--prior={settings.prior} needs the class distribution that the model answers for, "
            f"and {settings.model!r} does not know it: its training counters the imbalance of the "
            f"labeled pictures, and there were no validation pictures to measure it; {advice}"
        )
    return found


def with_sets(model: ServedModel, thresholds: SetThresholds) -> ServedModel:
    """Returns the model with the set of classes of each image as a further output.

    Args:
        model: The model.
        thresholds: Those for the probabilities of this model.
    """

    def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
        answer = model.serve(images=images)
        sets = thresholds(answer["probabilities"].numpy())
        return {**answer, CLASS_SETS: tf.constant(sets)}

    return dataclasses.replace(model, serve=serve)


def for_distribution(model: ServedModel, held_out: HeldOut, shares: np.ndarray) -> ServedModel:
    """Returns the model with probabilities for images of another class distribution.

    A calibrated probability p of class k becomes `p * shares_k / old_k`, scaled to sum to 1.

    Args:
        model: The model.
        held_out: What its export says; its class distribution is the old one.
        shares: float `(K,)` of at least 0, summing to 1.

    Reference:
        Saerens, Latinne and Decaestecker, "Adjusting the Outputs of a Classifier to New a Priori
        Probabilities: A Simple Procedure", Neural Computation 14, 2002, equation 2.4.
    """
    assert held_out.class_distribution is not None
    factors = shares / held_out.class_distribution

    def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
        answer = model.serve(images=images)
        moved = calibrated(held_out, answer["probabilities"].numpy()) * factors
        # All classes that the model thinks possible may have a share of 0.
        total = moved.sum(axis=1, keepdims=True)
        moved = np.where(total > 0, moved / np.maximum(total, np.finfo(float).tiny), shares)
        return {**answer, "probabilities": tf.constant(moved, tf.float32)}

    return dataclasses.replace(model, serve=serve)


def calibrated(held_out: HeldOut, probabilities: np.ndarray) -> np.ndarray:
    """Returns probabilities for the class distribution that the export states, float64 `(N, K)`."""
    if held_out.calibrator is None:
        return np.asarray(probabilities, np.float64)
    return held_out.calibrator.of_probabilities(probabilities)


def estimated_shares(held_out: HeldOut, answers: Iterable[dict[str, np.ndarray]]) -> np.ndarray:
    """Estimates the class distribution of images by EM on calibrated predictions.

    Args:
        held_out: What the export says; it has a calibrator.
        answers: The outputs of the model for the images.

    Raises:
        ValueError: If there are no images.
    """
    found = [calibrated(held_out, outputs["probabilities"]) for outputs in answers]
    if not found:
        raise ValueError("no picture could be read, so there is nothing to estimate from")
    assert held_out.class_distribution is not None
    return em_shares(np.concatenate(found), held_out.class_distribution)


def shares_line(shares: np.ndarray, names: tuple[str, ...]) -> str:
    """Returns class shares in one line, the largest first."""
    largest = np.argsort(-shares, kind="stable")[:_MOST_NAMED]
    shown = ", ".join(f"{printable(names[k], 40)} {100 * shares[k]:.1f} %" for k in largest)
    return shown + (f", and {len(shares) - _MOST_NAMED} more" if len(shares) > _MOST_NAMED else "")


def promises(thresholds: SetThresholds, held_out: HeldOut) -> Iterator[str]:
    """Yields what coverage can be promised, for the classes with few held-out images by name."""
    scores, names = held_out.scores, held_out.class_names
    assert scores is not None
    coverage = f"{100 * thresholds.coverage:g} %"

    def named(classes: list[int], of: Callable[[int], str] = lambda k: "") -> str:
        shown = ", ".join(f"{printable(names[k], 40)}{of(k)}" for k in classes[:_MOST_NAMED])
        return shown + (", ..." if len(classes) > _MOST_NAMED else "")

    few = [k for group in thresholds.shared for k in group.classes]
    if len(few) < len(names):
        others = "every other class" if few else "every class"
        yield f"the set contains the true class with a probability of {coverage} for {others}"
    for group in thresholds.shared:
        counts = named(group.classes, lambda k: f" ({len(scores[k])})")
        reason = f"fewer than {fewest_images(thresholds.coverage)} validation pictures: {counts}"
        if not group.images:
            yield f"{reason}; without any, the class is in every set"
            continue
        promised = f"{100 * np.floor(1000 * group.promised + 1e-9) / 1000:.3g} %"
        with_third = (
            f"they share the threshold of {named(group.third)}, whose {group.images} validation "
            f"pictures promise {promised} for these classes together"
            if len(group.third) > 1
            else f"{group.images} promise {promised}"
        )
        yield f"{reason}; {with_third}"
