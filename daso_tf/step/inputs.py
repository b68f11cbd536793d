"""What users hand to fit, evaluate and predict: which batches are allowed, and what is wrong else.

Shapes and types are known before the first step. Values are looked at where the batches come from,
on the host, so that no batch is taken out of its order and no step is slower.
"""

from __future__ import annotations

import itertools
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from daso_tf.platform.keras_versions import KERAS_3

MAKE_BATCHES = (
    "Make the batches with daso_tf.data.from_arrays(images, labels, unlabeled_images) and "
    "daso_tf.data.training_batches(data, ...)"
)
_NO_WEIGHTS = (
    "An image has no weight of its own here. Against rare classes, give the learner a "
    "supervised_loss, such as daso_tf.balance.LogitAdjustedLoss(data.labeled_counts) or "
    "ClassBalancedLoss(data.labeled_counts)."
)
# Filters such as bicubic exceed 0..255 by some levels, but not by this many.
_OVERSHOOT = 64


class Parts(NamedTuple):
    """What a batch consists of: arrays, tensors or their specs, by a name for messages.

    Attributes:
        images: The images.
        labels: The classes.
    """

    images: dict[str, Any]
    labels: dict[str, Any]


def training_parts(x: Any, y: Any) -> Parts:
    """Returns the parts of a batch of `fit`, or says how such a batch looks.

    Args:
        x: `(labeled, unlabeled)` or `(labeled, unlabeled, positions)`.
        y: `labels` or `(labels, unlabeled_labels)`.

    Raises:
        ValueError: If the structure is another one.
    """
    if not isinstance(x, (tuple, list)) or len(x) not in (2, 3):
        found = f"{len(x)} arrays" if isinstance(x, (tuple, list)) else _described(x)
        raise ValueError(
            "A batch of fit is ((labeled, unlabeled), labels): images whose class is known, images "
            f"without, and the classes of the first; here the images are {found}. {MAKE_BATCHES}."
        )
    if x[0] is None or x[1] is None:
        raise ValueError(
            f"The {'labeled' if x[0] is None else 'unlabeled'} images are None, but every learner "
            f"takes both kinds. {MAKE_BATCHES}; daso_tf.Supervised ignores the unlabeled images."
        )
    labels = y if isinstance(y, (tuple, list)) else (y,)
    if y is None or len(labels) > 2:
        raise ValueError(
            "A batch of fit is ((labeled, unlabeled), labels) or ((labeled, unlabeled), (labels, "
            f"unlabeled_labels)); this one has {'no' if y is None else len(labels)} labels. "
            f"{MAKE_BATCHES}."
        )
    return Parts(
        dict(zip(("labeled images", "unlabeled images"), x, strict=False)),
        dict(zip(("labels", "unlabeled labels"), labels, strict=False)),
    )


def evaluation_parts(x: Any, y: Any) -> Parts:
    """Returns the parts of a batch of `evaluate`, `(images, labels)`, or says what it lacks.

    Raises:
        ValueError: If the structure is another one.
    """
    if y is None or isinstance(x, (tuple, list, Mapping)):
        raise ValueError(
            "A batch of evaluate is (images, labels); here "
            f"{'there are no labels' if y is None else 'the images are several arrays'}. "
            "daso_tf.data.evaluation_batches(data.test, batch_size) makes such batches."
        )
    return Parts({"images": x}, {"labels": y})


def prediction_parts(x: Any, y: Any) -> Parts:
    """Returns the parts of a batch of `predict`: images; labels are ignored.

    Raises:
        ValueError: If there are several arrays.
    """
    if isinstance(x, (tuple, list, Mapping)):
        raise ValueError(
            "predict takes one array of images, uint8 of shape (N, height, width, 3), or batches "
            "of them; these are several arrays."
        )
    return Parts({"images": x}, {})


def check_kinds(parts: Parts, num_classes: int, stored_features: int | None = None) -> None:
    """Checks shapes and types.

    Args:
        parts: Arrays, tensors or their specs.
        num_classes: K.
        stored_features: Length of the features in rows of a feature bank, where a model takes them
            as well as images; None where it does not.

    Raises:
        ValueError: If one of them does not fit; the message says how to make it fit.
    """
    for name, images in parts.images.items():
        dtype, shape = _kind(images)
        if stored_features and shape is not None and len(shape) == 3:
            if shape[-1] in (stored_features, None) and dtype.is_floating:
                continue
            raise ValueError(
                f"The {name} are {_described(images)}; rows of a feature bank for this encoder are "
                f"float16 of shape (batch, views, {stored_features})."
            )
        if shape is not None and (len(shape) != 4 or shape[-1] not in (3, None)):
            raise ValueError(
                f"The {name} are {_described(images)}; they must be RGB images of shape (batch, "
                "height, width, 3). Add the batch axis, or repeat the channel of gray images "
                "three times."
            )
        if not (dtype.is_floating or dtype.is_integer):
            raise ValueError(
                f"The {name} are {_described(images)}; they must be uint8, or numbers, with "
                "values 0 to 255."
            )
    for name, labels in parts.labels.items():
        dtype, shape = _kind(labels)
        if (shape is None or len(shape) == 1) and dtype.is_integer:
            continue
        shape = shape or ()
        if len(shape) == 2 and shape[1] == 1:
            advice = "Remove the second axis: labels[:, 0]."
        elif len(shape) == 2:
            advice = (
                "One-hot labels become classes by np.argmax(labels, axis=-1); "
                'image_dataset_from_directory makes classes with label_mode="int".'
            )
        elif len(shape) == 1:
            advice = 'Convert them: labels.astype("int32").'
        else:
            advice = f"There is one class per image, in 0..{num_classes - 1}."
        raise ValueError(
            f"The {name} are {_described(labels)}; they must be integers of shape (batch,), one "
            f"class per image. {advice}"
        )


def check_values(parts: Parts, num_classes: int, optional: Collection[str] = ()) -> None:
    """Checks the values of a batch on the host.

    Args:
        parts: NumPy arrays, or what becomes one.
        num_classes: K.
        optional: Names of images that a batch may lack.

    Raises:
        ValueError: If there are no images, or values have another scale or meaning than expected.
    """
    for name, images in parts.images.items():
        if not len(images) and name not in optional:
            raise ValueError(
                f"The batch has no {name}. Each batch needs at least one; drop empty batches."
            )
        images = np.asarray(images)
        if images.dtype != np.uint8 and images.ndim != 3:  # rows of a feature bank have any values
            _check_scale(name, images.astype(np.float32, copy=False))
    for name, labels in parts.labels.items():
        labels = np.asarray(labels)
        lowest = -1 if name == "unlabeled labels" else 0  # -1 is unknown
        wrong = labels[(labels < lowest) | (labels >= num_classes)]
        if not len(wrong):
            continue
        advice = "Give num_classes the number of your classes, or correct the label."
        if labels.max() == num_classes and labels.min() >= 1:
            advice = f"Labels start at 0: subtract 1 if yours are 1..{num_classes}."
        elif wrong[0] == -1:
            advice = "Images of unknown class (-1) belong to the unlabeled images."
        raise ValueError(
            f"One of the {name} is {wrong[0]}, outside {lowest}..{num_classes - 1}; there are "
            f"{num_classes} classes. {advice}"
        )


def raw(images: tf.Tensor) -> tf.Tensor:
    """Returns images as uint8: numbers are rounded to the nearest of the levels 0 to 255.

    Rows of a feature bank, which have three axes, are returned as they are.
    """
    images = tf.convert_to_tensor(images)
    if images.dtype == tf.uint8 or images.shape.rank == 3:
        return images
    if tf.executing_eagerly():
        check_values(Parts({"images": images.numpy()}, {}), num_classes=0)
    return tf.cast(tf.clip_by_value(tf.round(tf.cast(images, tf.float32)), 0.0, 255.0), tf.uint8)


class Guard:
    """Checks the batches of one call of `fit`, `evaluate` or `predict`.

    Used as a context, it raises what TensorFlow reports of a failed check as it was raised.

    Args:
        num_classes: K.
        optional: Names of images that a batch may lack, such as "unlabeled images".
        stored_features: As for `check_kinds`.
    """

    def __init__(
        self,
        num_classes: int,
        optional: Collection[str] = (),
        stored_features: int | None = None,
    ):
        self.num_classes = num_classes
        self.stored_features = stored_features
        self.optional = optional
        self._failure: ValueError | None = None

    def __enter__(self) -> Guard:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self._failure is not None and isinstance(error, tf.errors.OpError):
            raise self._failure from None

    def checked(self, parts_of: Callable[[Any, Any], Parts], x: Any, y: Any = None) -> Any:
        """Checks what can be checked now, and returns `x` so that the rest is checked later.

        Every batch of a `tf.data.Dataset` or generator is checked when it is made; of a Keras
        sequence the first one is. What a `tf.distribute` strategy has distributed is checked
        before the first step only where its images are not uint8: its first batch is made twice.

        Args:
            parts_of: `training_parts`, `evaluation_parts` or `prediction_parts`.
            x: What `fit`, `evaluate` or `predict` was given.
            y: Its labels, where they are separate.
        """
        if isinstance(x, tf.data.Dataset):
            return self._checked_dataset(parts_of, x)
        if isinstance(x, tf.distribute.DistributedDataset):
            dtypes = [s.dtype for s in tf.nest.flatten(x.element_spec, expand_composites=True)]
            if any(dtype.is_floating for dtype in dtypes):
                self._check(parts_of, *_split(_local(next(iter(x)))))
            return x
        if isinstance(x, types.GeneratorType):
            batches = self._checked_generator(parts_of, x)
            return batches if KERAS_3 else _dataset_of(batches)
        if isinstance(x, keras.utils.Sequence):
            self._check(parts_of, *_split(x[0]))
            return x
        if hasattr(x, "__array__") or isinstance(x, (tuple, list)):
            self._check(parts_of, x, y)
        return x

    def _check(self, parts_of: Callable[[Any, Any], Parts], x: Any, y: Any) -> None:
        parts = parts_of(x, y)
        check_kinds(parts, self.num_classes, self.stored_features)
        check_values(parts, self.num_classes, self.optional)

    def _checked_generator(
        self, parts_of: Callable[[Any, Any], Parts], batches: Iterator[Any]
    ) -> Iterator[Any]:
        for batch in batches:
            self._check(parts_of, *_split(batch))
            yield batch

    def _checked_dataset(
        self, parts_of: Callable[[Any, Any], Parts], batches: tf.data.Dataset
    ) -> tf.data.Dataset:
        parts = parts_of(*_split(batches.element_spec))
        check_kinds(parts, self.num_classes, self.stored_features)

        def host_check(parts: Parts) -> tf.Tensor:
            """Checks tensors of a dataset's function when they have values."""
            names = [list(arrays) for arrays in parts]

            def check(*arrays: np.ndarray) -> np.bool_:
                of_images, of_labels = arrays[: len(names[0])], arrays[len(names[0]) :]
                named = (
                    dict(zip(n, a, strict=True))
                    for n, a in zip(names, (of_images, of_labels), strict=True)
                )
                try:
                    check_values(Parts(*named), self.num_classes, self.optional)
                except ValueError as error:
                    self._failure = error
                    raise
                return np.bool_(True)

            tensors = [*parts.images.values(), *parts.labels.values()]
            return tf.numpy_function(check, tensors, tf.bool)

        def passed(number: tf.Tensor, batch: Any) -> Any:
            parts = parts_of(*_split(batch))
            later = parts._replace(images={})
            fits = tf.cond(
                number == 0,
                lambda: host_check(parts),
                lambda: host_check(later) if later.labels else tf.constant(True),
            )
            with tf.control_dependencies([fits]):
                return tf.nest.map_structure(tf.identity, batch)

        return batches.enumerate().map(passed)


def check_fit_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuses arguments of `fit` that have no meaning for these learners.

    Args:
        arguments: Those that were given, by name.

    Raises:
        ValueError: If there is such an argument.
    """
    if arguments.get("validation_split"):
        raise ValueError(
            "validation_split cannot divide batches of labeled and unlabeled images. Give "
            "validation_data=daso_tf.data.evaluation_batches(data.validation, batch_size)."
        )
    check_no_weights(arguments)


def check_no_weights(arguments: Mapping[str, Any]) -> None:
    """Refuses weights of images or classes; see `check_fit_arguments`."""
    for name in ("class_weight", "sample_weight"):
        if arguments.get(name) is not None:
            raise ValueError(f"{name} is not possible. {_NO_WEIGHTS}")


def check_lengths(x: Any, y: Any) -> None:
    """Checks that arrays given to `fit`, which pairs their rows, have the same length.

    Args:
        x: `(labeled, unlabeled)` as arrays, or anything else.
        y: Their labels.

    Raises:
        ValueError: If the lengths differ.
    """
    if not isinstance(x, (tuple, list)):
        return
    parts = training_parts(x, y)
    lengths = {name: len(rows) for part in parts for name, rows in part.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{count} {name}" for name, count in lengths.items())
        raise ValueError(
            f"fit pairs the rows of arrays, but here are {found}. {MAKE_BATCHES}, which takes any "
            "number of each."
        )


def unpack(data: Any) -> tuple[Any, Any]:
    """Returns inputs and labels of a batch as Keras hands it to a step or a user makes it.

    Raises:
        ValueError: If there are sample weights.
    """
    inputs, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
    if weights is not None:
        raise ValueError(
            "A batch is (inputs, labels), without sample weights; this one has sample weights. "
            + _NO_WEIGHTS
        )
    return inputs, labels


_split = unpack


def _dataset_of(batches: Iterator[Any]) -> tf.data.Dataset:
    """Makes a dataset of a generator; Keras 2 would hide height and width of its images."""
    first = next(batches)
    signature = tf.nest.map_structure(
        lambda rows: tf.TensorSpec((None, *np.shape(rows)[1:]), np.asarray(rows).dtype), first
    )
    return tf.data.Dataset.from_generator(
        lambda: itertools.chain([first], batches), output_signature=signature
    )


def _local(batch: Any) -> Any:
    """Returns the rows of a distributed batch that this worker has."""
    local = tf.distribute.get_strategy().experimental_local_results
    return tf.nest.map_structure(lambda rows: tf.concat(local(rows), axis=0), batch)


def _kind(array: Any) -> tuple[tf.DType, tuple | None]:
    """Returns type and shape of an array, a tensor or a spec; None where the rank is unknown."""
    if not hasattr(array, "shape") or not hasattr(array, "dtype"):
        array = np.asarray(array)
    shape = tf.TensorShape(array.shape)
    return tf.as_dtype(array.dtype), None if shape.rank is None else tuple(shape)


def _described(array: Any) -> str:
    try:
        dtype, shape = _kind(array)
    except (TypeError, ValueError):
        return f"of type {type(array).__name__}"
    return f"{dtype.name} of shape {shape}"


def _check_scale(name: str, images: np.ndarray) -> None:
    """Raises a ValueError if values are not on the scale 0 to 255."""
    low, high = float(images.min(initial=np.inf)), float(images.max(initial=-np.inf))
    if np.isfinite(images).all():
        fractions = bool((images != np.round(images)).any())
        scaled = high <= 1 and (fractions or low < 0)
        if (
            not scaled
            and not (low < 0 and high < 16)
            and low > -_OVERSHOOT
            and high < 255 + _OVERSHOOT
        ):
            return
    raise ValueError(
        f"The {name} have values from {low:.4g} to {high:.4g}; they must have values 0 to 255, "
        "uint8 or numbers that are rounded to it. Hand over the images as they were read: leave "
        "out Rescaling, Normalization and preprocess_input, or multiply values in 0..1 by 255. "
        "The learner normalizes images itself, with its mean and std."
    )
