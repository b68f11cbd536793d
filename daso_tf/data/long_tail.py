"""Long-tailed splits: which images are labeled, unlabeled and for validation.

As in Oh, Kim, Kweon, "DASO" (CVPR 2022), experimental setup: class counts fall exponentially from
the head class to the tail class. The imbalance ratio is head count over tail count.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from daso_tf.data.class_order import ClassOrder, head_to_tail
from daso_tf.data.errors import DataError
from daso_tf.data.shuffle import Stream, random_order

# How the counts of the unlabeled images are given to the classes; see `class_counts`.
ORDERS = ("labeled", "reversed", "middle", "head-tail")


@dataclasses.dataclass(frozen=True)
class LongTail:
    """How many images each class should have; the flags of the same names mean the same.

    Args:
        labeled_head: Labeled images of the head class (N1 in the paper); 0 uses all images.
        labeled_imbalance: Imbalance ratio of the labeled images, >= 1.
        unlabeled_head: Unlabeled images of the head class (M1); 0 uses all images.
        unlabeled_imbalance: Imbalance ratio of the unlabeled images, >= 1.
        reverse_unlabeled: Whether the unlabeled images have the opposite order of classes: the
            labeled tail class is their head class.
        validation_size: Images for validation, the same number of each class.
        class_order: The names of all classes, the head class first, or a file with one name per
            line. By default larger classes come first; see `daso_tf.data.class_order`.
        unlabeled_order: Which classes have how many unlabeled images, one of `ORDERS`; see
            `class_counts`.

    Raises:
        DataError: If a value is outside its range, or an imbalance ratio is given without its head.

    Example:

    >>> LongTail(labeled_head=500, labeled_imbalance=100, unlabeled_head=4000).validation_size
    0
    """

    labeled_head: int = 0
    labeled_imbalance: float = 1.0
    unlabeled_head: int = 0
    unlabeled_imbalance: float = 1.0
    reverse_unlabeled: bool = False
    validation_size: int = 0
    class_order: ClassOrder | None = None
    unlabeled_order: str = "labeled"

    def __post_init__(self) -> None:
        for name in ("labeled_head", "unlabeled_head", "validation_size"):
            if getattr(self, name) < 0:
                raise DataError(f"{name}={getattr(self, name)}; it must be 0 or more.")
        for side in ("labeled", "unlabeled"):
            head, imbalance = getattr(self, f"{side}_head"), getattr(self, f"{side}_imbalance")
            if not 1 <= imbalance < math.inf:
                raise DataError(
                    f"{side}_imbalance={imbalance}; it is the head count over the tail count, so "
                    "it must be 1 (uniform) or more."
                )
            if imbalance != 1 and head == 0:
                raise DataError(
                    f"{side}_imbalance={imbalance} without {side}_head; with {side}_head=0 all "
                    f"images are used as they are. Give {side}_head, the images of the head class."
                )
        if self.reverse_unlabeled and self.unlabeled_head == 0:
            raise DataError("reverse_unlabeled is set without unlabeled_head; give both.")
        if self.unlabeled_order not in ORDERS:
            raise DataError(
                f"unlabeled_order={self.unlabeled_order!r}; it must be one of {', '.join(ORDERS)}."
            )
        if self.unlabeled_order != "labeled":
            if self.unlabeled_head == 0:
                raise DataError(
                    f"unlabeled_order={self.unlabeled_order} is set without unlabeled_head; give "
                    "both."
                )
            if self.reverse_unlabeled:
                raise DataError(
                    f"unlabeled_order={self.unlabeled_order} and reverse_unlabeled are two orders "
                    "of the unlabeled classes; give one of them."
                )
        if self.class_order is not None and not (self.labeled_head or self.unlabeled_head):
            raise DataError(
                "class_order is given without labeled_head; with labeled_head=0 all images are "
                "used as they are. Give labeled_head, the images of the head class."
            )


@dataclasses.dataclass(frozen=True)
class Split:
    """Positions of the images of each part: sorted int64 arrays that share no position.

    Args:
        labeled: Positions of the labeled images.
        unlabeled: Positions of the unlabeled images; empty if they are not training images.
        validation: Positions of the validation images.
    """

    labeled: np.ndarray
    unlabeled: np.ndarray
    validation: np.ndarray


def class_counts(
    head: int, imbalance: float, num_classes: int, reverse: bool = False, order: str = "labeled"
) -> np.ndarray:
    """Returns the number of images of each class of a long-tailed set, by rank.

    The class of rank r out of K has `int(head * (1 / imbalance) ** (r / (K - 1)))` images.

    Args:
        head: Images of the head class.
        imbalance: Imbalance ratio, >= 1.
        num_classes: K, at least 2.
        reverse: The same as the order "reversed".
        order: One of `ORDERS`. By default the class of rank 0 is the head class. "reversed": that
            of rank K - 1. "middle": the largest classes are in the middle, and the ranks of the
            counts are ..., 4, 2, 0, 1, 3, ... "head-tail": they are at both ends, and the ranks of
            the counts are 1, 3, 5, ..., 4, 2, 0.

    Returns:
        int64 array of shape (num_classes,).

    Example:

    >>> class_counts(500, 100, 10)
    array([500, 299, 179, 107,  64,  38,  23,  13,   8,   5])
    >>> class_counts(500, 100, 10, order="middle")
    array([  8,  23,  64, 179, 500, 299, 107,  38,  13,   5])
    """
    # The 1e-9 corrects a power function that returns slightly less than a whole number.
    counts = [
        int(head / imbalance ** (rank / (num_classes - 1)) + 1e-9) for rank in range(num_classes)
    ]
    ranks = list(range(num_classes))
    even, odd = ranks[::2], ranks[1::2]
    places = {
        "labeled": ranks,
        "reversed": ranks[::-1],
        "middle": [*even[::-1], *odd],
        "head-tail": [*odd, *even[::-1]],
    }["reversed" if reverse else order]
    return np.array(counts, np.int64)[places]


def split(
    labels: np.ndarray,
    class_names: Sequence[str],
    sizes: LongTail,
    *,
    unlabeled_from_train: bool,
    seed: int,
    listed: bool = False,
) -> Split:
    """Splits training images into disjoint validation, labeled and unlabeled parts.

    The images of each class are put in a random order. The first ones are for validation, the next
    ones labeled, the last ones unlabeled. The labeled images therefore do not depend on the
    settings of the unlabeled ones, and a smaller part is contained in a larger one.

    Args:
        labels: Integer array of shape (N,), classes 0..K-1.
        class_names: K names, for messages.
        sizes: How many images each class should have.
        unlabeled_from_train: Whether unlabeled images are taken from these images too. If not, the
            unlabeled part is empty.
        seed: Integer >= 0 that determines the order.
        listed: Whether the classes are numbered from head to tail. If not, larger classes come
            first. `sizes.class_order` overrides both.

    Returns:
        A `Split`.

    Raises:
        DataError: If a class has fewer images than requested, or would have no labeled image.

    Example:

    >>> labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    >>> sizes = LongTail(labeled_head=2, labeled_imbalance=2, unlabeled_head=2)
    >>> parts = split(labels, ["cat", "dog"], sizes, unlabeled_from_train=True, seed=0)
    >>> labels[parts.labeled], labels[parts.unlabeled]
    (array([0, 0, 1]), array([0, 0, 1, 1]))
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
    available = np.bincount(labels, minlength=num_classes)
    for_validation = _validation_per_class(sizes.validation_size, num_classes)
    order = head_to_tail(class_names, available, sizes.class_order, listed)
    labeled, unlabeled = _requested(sizes, available - for_validation, order, unlabeled_from_train)
    _check_enough(class_names, available, for_validation, labeled, unlabeled)

    parts: dict[str, list[np.ndarray]] = {"labeled": [], "unlabeled": [], "validation": []}
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
            f"validation_size={validation_size} cannot be divided evenly among {num_classes} "
            "classes, and each class must have the same number of validation images. Give "
            f"{per_class * num_classes} or {(per_class + 1) * num_classes}."
        )
    return per_class


def _requested(
    sizes: LongTail, available: np.ndarray, order: np.ndarray, unlabeled_from_train: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the labeled and the unlabeled images requested of each class.

    `order` has the classes from head to tail, and `rank` the place of each class in it.
    """
    rank = np.argsort(order)
    num_classes = len(available)
    if unlabeled_from_train and not (sizes.labeled_head and sizes.unlabeled_head):
        raise DataError(
            "The labeled and the unlabeled images are both taken from the training images here, so "
            "both labeled_head and unlabeled_head must be given: the images of the head class. "
            f"They are {sizes.labeled_head} and {sizes.unlabeled_head}."
        )
    if not unlabeled_from_train and sizes.unlabeled_head:
        raise DataError(
            f"unlabeled_head={sizes.unlabeled_head}, but this data set has unlabeled images of "
            "unknown classes, which are used as they are. Leave unlabeled_head at 0."
        )
    labeled = available
    if sizes.labeled_head:
        labeled = class_counts(sizes.labeled_head, sizes.labeled_imbalance, num_classes)[rank]
        if labeled.min() == 0:
            raise DataError(
                f"labeled_head={sizes.labeled_head} with labeled_imbalance="
                f"{sizes.labeled_imbalance} leaves the tail class without a labeled image, but "
                "every class needs at least one. Give a larger head or a smaller imbalance ratio."
            )
    unlabeled = class_counts(
        sizes.unlabeled_head,
        sizes.unlabeled_imbalance,
        num_classes,
        sizes.reverse_unlabeled,
        sizes.unlabeled_order,
    )
    return labeled, unlabeled[rank]


def _check_enough(
    class_names: Sequence[str],
    available: np.ndarray,
    for_validation: int,
    labeled: np.ndarray,
    unlabeled: np.ndarray,
) -> None:
    for k, name in enumerate(class_names):
        if available[k] == 0:
            raise DataError(f"Class {name!r} has no labeled image; add some, or remove the class.")
        requested = for_validation + labeled[k] + unlabeled[k]
        if requested > available[k]:
            raise DataError(
                f"Class {name!r} has {available[k]} training images, but {requested} are "
                f"requested: {for_validation} for validation, {labeled[k]} labeled and "
                f"{unlabeled[k]} unlabeled. Lower labeled_head, unlabeled_head or validation_size, "
                "or raise the imbalance ratio."
            )
        if labeled[k] <= 0:
            raise DataError(
                f"Class {name!r} has {available[k]} training images. Validation uses "
                f"{for_validation} of them, so no labeled image is left. Lower validation_size."
            )
