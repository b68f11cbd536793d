"""One network of a frozen encoder and the adapter on its features, to be trained as a whole."""

from __future__ import annotations

import keras

from daso_tf.encoders.batch_normalization import batch_norms_of


def finetunable(frozen: keras.Model, adapter: keras.Model) -> keras.Model:
    """Joins copies of a frozen encoder and of an adapter to an encoder that is trained.

    BatchNorm of the frozen encoder stays in inference mode: it has the statistics of the pictures
    that the encoder was pretrained on, and few pictures would replace them by worse ones.

    Args:
        frozen: A `keras.Model` from normalized images to features.
        adapter: A `keras.Model` from these features to others.

    Returns:
        A `keras.Model` from normalized images to the features of the adapter.

    Example:

    >>> frozen = daso_tf.encoders.wide_resnet(10, 1, (8, 8, 3))
    >>> adapter = keras.Sequential([keras.Input(frozen.output_shape[1:]), keras.layers.Dense(4)])
    >>> finetunable(frozen, adapter).output_shape
    (None, 4)
    """
    below, above = (_copy_of(model) for model in (frozen, adapter))
    below.trainable = True
    for norm in batch_norms_of(below):
        norm.trainable = False
    images = keras.Input(frozen.input_shape[1:])
    return keras.Model(images, above(below(images)), name="finetuned")


def _copy_of(model: keras.Model) -> keras.Model:
    copy = type(model).from_config(model.get_config())
    if not copy.built:
        copy.build(model.input_shape)
    copy.set_weights(model.get_weights())
    return copy
