"""What a learner expects of an encoder that the user has made."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from daso_tf.encoders.normalized_input import NormalizedInput

_restoring = contextvars.ContextVar("restoring", default=False)
_BUILT_HERE = "daso_tf.encoders.application(name, resolution, mean, std)"


@contextlib.contextmanager
def restoring() -> Iterator[None]:
    """Leaves an encoder as it was saved: it was checked, or made by a version that did not."""
    token = _restoring.set(True)
    try:
        yield
    finally:
        _restoring.reset(token)


def is_restoring() -> bool:
    """Returns whether a saved learner is being made again."""
    return _restoring.get()


def check_encoder(encoder: Any) -> None:
    """Checks that an encoder is a model from normalized images to features.

    Args:
        encoder: What a learner was given.

    Raises:
        ValueError: If it is no model, ends in a softmax, or scales images that are normalized.

    Example:

    >>> check_encoder(keras.layers.Dense(8))
    Traceback (most recent call last):
    ...
    ValueError: The encoder is the layer Dense; it must be a keras.Model. Make one of it: \
keras.Sequential([keras.Input((32, 32, 3)), layer, keras.layers.GlobalAveragePooling2D()]).
    """
    if not isinstance(encoder, keras.Model):
        found, advice = repr(encoder), "daso_tf.encoders.wide_resnet(28, 2) makes one."
        if isinstance(encoder, keras.layers.Layer):
            found = f"the layer {type(encoder).__name__}"
            advice = (
                "Make one of it: keras.Sequential([keras.Input((32, 32, 3)), layer, "
                "keras.layers.GlobalAveragePooling2D()])."
            )
        elif isinstance(encoder, str):
            advice = "daso_tf.encoders.build(name, resolution, mean, std) makes one by its name."
        raise ValueError(f"The encoder is {found}; it must be a keras.Model. {advice}")
    if is_restoring():
        return
    if _ends_in_softmax(encoder):
        raise ValueError(
            f"The encoder {encoder.name} ends in a softmax: it is a classifier. The learner adds "
            "the classifier itself; give the network up to its features, in keras.applications "
            'with include_top=False, pooling="avg".'
        )
    rescaling = _rescaling_of(encoder)
    if rescaling is not None:
        raise ValueError(
            f"The encoder {encoder.name} rescales its input itself, with the layer "
            f"{rescaling.name}, but the learner hands it images that are normalized with mean and "
            f"std already. Leave the layer out. {_BUILT_HERE} builds networks of "
            "keras.applications with the input that each expects."
        )


def _layers_of(model: keras.Model) -> Iterator[Any]:
    """Yields the layers and operations of a model and of the models in it, in order."""
    for layer in getattr(model, "operations", None) or model.layers:  # Keras 2 has layers only
        if isinstance(layer, keras.Model):
            yield from _layers_of(layer)
        else:
            yield layer


def _ends_in_softmax(encoder: keras.Model) -> bool:
    if not getattr(encoder, "outputs", None):  # the layers of other models have no order
        return False
    last = list(_layers_of(encoder))[-1]
    names = (
        getattr(getattr(last, "activation", None), "__name__", ""),
        type(last).__name__.lower(),
        last.name.replace("tf.nn.", "") if type(last).__name__ == "TFOpLambda" else "",
    )
    return any(name.startswith("softmax") for name in names)


def _rescaling_of(encoder: keras.Model) -> Any:
    """Returns the first layer that expects values 0 to 255; None where there is none.

    An encoder that declares how its images are normalized has what it needs for them.
    """
    if not getattr(encoder, "outputs", None):
        return None
    for layer in _layers_of(encoder):
        if isinstance(layer, NormalizedInput):
            return None
        if isinstance(layer, keras.layers.Rescaling):
            return layer if np.max(layer.scale) < 0.1 else None
        if isinstance(layer, keras.layers.Normalization):
            mean = getattr(layer, "mean", None)  # a network of keras.applications has its own
            if mean is not None and np.abs(np.asarray(mean)).max() > 2:
                return layer
    return None
