"""Which images are labeled, unlabeled and for validation: long-tailed splits in plain NumPy.

The splits are those of Oh, Kim, Kweon, "DASO" (CVPR 2022), experimental setup: class counts fall
exponentially from the head class to the tail class, the imbalance ratio being their quotient.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from daso_tf.data.errors import DataError
from daso_tf.data.shuffle import Stream, random_order


@dataclasses.dataclass(frozen=True)
class LongTail:
    """How many images of each class are wanted; the meaning of the flags of the same names.

    Args:
        labeled_head: labeled images of the head class (N1 in the paper); 0 takes all there are.
        labeled_imbalance: labeled images of the head class over those of the tail class, >= 1.
        unlabeled_head: unlabeled images of the head class (M1); 0 takes all there are.
        unlabeled_imbalance: the same ratio for the unlabeled images, >= 1.
        reverse_unlabeled: whether the unlabeled images have the opposite order of classes.
        validation_size: images set aside for validation, equally many of each class.

    Raises:
        DataError: a value is outside its range, or a ratio is given without its head.
    """

    labeled_head: int = 0
    labeled_imbalance: float = 1.0
    unlabeled_head: int = 0
    unlabeled_imbalance: float = 1.0
    reverse_unlabeled: bool = False
    validation_size: int = 0

    def __post_init__(self):
        for name in ("labeled_head", "unlabeled_head", "validation_size"):
            if getattr(self, name) < 0:
                raise DataError(f"{name}={getattr(self, name)}; it must be 0 or more.")
        for side in ("labeled", "unlabeled"):
            head, imbalance = getattr(self, f"{side}_head"), getattr(self, f"{side}_imbalance")
            if not 1 <= imbalance < math.inf:
                raise DataError(
                    f"{side}_imbalance={imbalance}; it is head class over tail class, so it must "
                    "be 1 (uniform) or more."
                )
            if imbalance != 1 and head == 0:
                raise DataError(
                    f"{side}_imbalance={imbalance} without {side}_head, which 0 leaves as it is; "
                    f"give {side}_head, the images of the largest class."
                )
        if self.reverse_unlabeled and self.unlabeled_head == 0:
            raise DataError("reverse_unlabeled is set without unlabeled_head; give both.")


@dataclasses.dataclass(frozen=True)
class Split:
    """Positions of the images of each part, ascending int64 arrays without common members."""

    labeled: np.ndarray
    unlabeled: np.ndarray
    validation: np.ndarray


def class_counts(
    head: int, imbalance: float, num_classes: int, reverse: bool = False
) -> np.ndarray:
    """Returns the images of each class of a long-tailed set.

    Class of rank r out of K gets `int(head * (1 / imbalance) ** (r / (K - 1)))`; the rank is the
    class number, or counts from the other end where `reverse` is set.

    Args:
        head: images of the largest class.
        imbalance: largest class over smallest, >= 1.
        num_classes: K, at least 2.
        reverse: whether the last class is the largest.

    Returns:
        int64 array of shape (num_classes,).

    Example:

    >>> class_counts(500, 100, 10)
    array([500, 299, 179, 107,  64,  38,  23,  13,   8,   5])
    """
    # The 1e-9 keeps a whole number whole where a machine's power function falls just below it.
    counts = [
        int(head / imbalance ** (rank / (num_classes - 1)) + 1e-9) for rank in range(num_classes)
    ]
    return np.array(counts[::-1] if reverse else counts, np.int64)


def split(
    labels: np.ndarray,
    class_names: Sequence[str],
    sizes: LongTail,
    *,
    carve_unlabeled: bool,
    seed: int,
) -> Split:
    """Splits training images into disjoint validation, labeled and unlabeled parts.

    Of each class, in a random order fixed by the seed, validation takes the first images, labeled
    the next ones and unlabeled the last ones. So the labeled images stay the same whatever is
    asked of the unlabeled side, and a smaller part is contained in a larger one.

    Args:
        labels: integer array of shape (N,), classes 0..K-1.
        class_names: K names, for messages.
        sizes: how many images are wanted.
        carve_unlabeled: whether unlabeled images come from these, too; where they come from
            elsewhere, the unlabeled part is empty.
        seed: integer >= 0.

    Returns:
        A `Split`.

    Raises:
        DataError: a class has fewer images than asked of it, or would have no labeled one.
    """
    num_classes = len(class_names)
    if num_classes < 2:
        raise DataError(f"Found {num_classes} class; a classifier needs at least 2.")
    if seed < 0:
        raise DataError(f"seed={seed}; it must be 0 or more.")
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise DataError(
            f"Training images have labels {labels.min()}..{labels.max()}; with {num_classes} "
            f"classes they must be in 0..{num_classes - 1}."
        )
    there = np.bincount(labels, minlength=num_classes)
    for_validation = _validation_per_class(sizes.validation_size, num_classes)
    labeled, unlabeled = _asked_of_each_class(sizes, there - for_validation, carve_unlabeled)
    _check_enough(class_names, there, for_validation, labeled, unlabeled)

    parts = {"labeled": [], "unlabeled": [], "validation": []}
    for k in range(num_classes):
        members = np.flatnonzero(labels == k)
        members = members[random_order(len(members), Stream.SPLIT, seed, k)]
        rest = members[for_validation:]
        parts["validation"].append(members[:for_validation])
        parts["labeled"].append(rest[: labeled[k]])
        parts["unlabeled"].append(rest[len(rest) - unlabeled[k] :])
    return Split(**{name: np.sort(np.concatenate(part)) for name, part in parts.items()})


def _validation_per_class(validation_size: int, num_classes: int) -> int:
    per_class, remainder = divmod(validation_size, num_classes)
    if remainder:
        raise DataError(
            f"validation_size={validation_size} does not divide into {num_classes} classes; it is "
            f"class-balanced, so give {per_class * num_classes} or {(per_class + 1) * num_classes}."
        )
    return per_class


def _asked_of_each_class(sizes: LongTail, there: np.ndarray, carve_unlabeled: bool):
    num_classes = len(there)
    if carve_unlabeled and not (sizes.labeled_head and sizes.unlabeled_head):
        raise DataError(
            "Labeled and unlabeled images are both carved from the training images here, so both "
            "labeled_head and unlabeled_head must say how many the largest class gives; they are "
            f"{sizes.labeled_head} and {sizes.unlabeled_head}."
        )
    if not carve_unlabeled and sizes.unlabeled_head:
        raise DataError(
            f"unlabeled_head={sizes.unlabeled_head}, but this data set brings unlabeled images of "
            "unknown classes, which are used as they are; leave unlabeled_head at 0."
        )
    labeled = there
    if sizes.labeled_head:
        labeled = class_counts(sizes.labeled_head, sizes.labeled_imbalance, num_classes)
        if labeled.min() == 0:
            raise DataError(
                f"labeled_head={sizes.labeled_head} over labeled_imbalance="
                f"{sizes.labeled_imbalance} leaves the tail class without a labeled image; every "
                "class needs at least one. Give a larger head or a smaller imbalance."
            )
    unlabeled = class_counts(
        sizes.unlabeled_head, sizes.unlabeled_imbalance, num_classes, sizes.reverse_unlabeled
    )
    return labeled, unlabeled


def _check_enough(class_names, there, for_validation, labeled, unlabeled) -> None:
    for k, name in enumerate(class_names):
        if there[k] == 0:
            raise DataError(f"Class {name!r} has no labeled image; add some, or remove the class.")
        if for_validation + labeled[k] + unlabeled[k] > there[k]:
            raise DataError(
                f"Class {name!r} has {there[k]} training images, but "
                f"{for_validation + labeled[k] + unlabeled[k]} are asked of it: {for_validation} "
                f"for validation, {labeled[k]} labeled and {unlabeled[k]} unlabeled. Lower "
                "labeled_head, unlabeled_head or validation_size, or raise the imbalance."
            )
        if labeled[k] <= 0:
            raise DataError(
                f"Class {name!r} has {there[k]} training images, and validation takes "
                f"{for_validation}, which leaves no labeled one; lower validation_size."
            )
