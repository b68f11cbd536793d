"""A network and its moving average (EMA), which makes all predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import keras
import tensorflow as tf

from daso_tf.augment import normalize, resize
from daso_tf.platform.keras_versions import scaled_normal

_Network = TypeVar("_Network", bound=keras.layers.Layer)


class AveragedNetwork:
    """An encoder and a classifier, as they are trained and as they are averaged.

    A learner owns one. The layers are attributes of the learner too, so that Keras saves them.

    Args:
        encoder: A `keras.Model` from normalized float images `(batch, height, width, 3)` to
            features `(batch, D)`.
        num_classes: K.
        resolution: Side in pixels of the encoder's input; None uses the one it was made for.
        mean: Mean of each color channel, in [0, 1].
        std: Standard deviation of each color channel, above 0.
        frozen: A `keras.Model` from normalized images to features that is not trained; the encoder
            then maps these features `(batch, F)` to others. None where there is none.
        classifier: A layer from features `(batch, D)` to logits `(batch, K)`; by default a linear
            one.

    Raises:
        ValueError: If the encoder does not return feature vectors, its input size is unknown, or
            the classifier does not return K logits.

    Reference:
        Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017, section 2.
    """

    def __init__(
        self,
        encoder: keras.Model,
        num_classes: int,
        resolution: int | None,
        mean: Sequence[float],
        std: Sequence[float],
        frozen: keras.Model | None = None,
        classifier: keras.layers.Layer | None = None,
    ):
        self.frozen = frozen
        self.resolution = int(resolution or input_size(frozen or encoder))
        self.mean = tuple(float(value) for value in mean)
        self.std = tuple(float(value) for value in std)
        self.encoder = encoder
        self.classifier = (
            linear_classifier(num_classes, "classifier") if classifier is None else classifier
        )
        self.ema_encoder = copy_of(encoder, f"ema_{encoder.name}")
        self.ema_classifier = (
            linear_classifier(num_classes, "ema_classifier")
            if classifier is None
            else copy_of(classifier, "ema_classifier")
        )
        self.num_features = self._build(num_classes)
        self.heads: list[keras.layers.Layer] = []
        self.ema_heads: list[keras.layers.Layer] = []
        # Whether XLA compiles the parts of a step in which replicas exchange nothing, because it
        # cannot compile the step as a whole.
        self.compiles_parts = False

    def add_head(self, name: str, units: int) -> tuple[keras.layers.Layer, keras.layers.Layer]:
        """Adds a linear layer on the features, in addition to the classifier.

        Args:
            name: Its name.
            units: Its number of outputs.

        Returns:
            The trained layer and its average.
        """
        head, ema_head = linear_classifier(units, name), linear_classifier(units, f"ema_{name}")
        for layer in (head, ema_head):
            layer.build((None, self.num_features))
        ema_head.set_weights(head.get_weights())
        self.heads.append(head)
        self.ema_heads.append(ema_head)
        return head, ema_head

    def as_input(self, images: tf.Tensor) -> tf.Tensor:
        """Returns images as the encoder takes them.

        Args:
            images: uint8 `(batch, height, width, 3)`, which are resized, normalized and, where
                there is a frozen encoder, mapped to its features; or rows of a feature bank
                `(batch, views, F)`, whose first view is the present one.
        """
        images = tf.convert_to_tensor(images)
        if images.shape.rank == 3:
            return tf.cast(images[:, 0], tf.float32)
        images = normalize(resize(images, (self.resolution, self.resolution)), self.mean, self.std)
        if self.frozen is None:
            return images
        return tf.cast(self.frozen(images, training=False), tf.float32)

    def features(self, images: tf.Tensor, training: bool = True) -> tf.Tensor:
        """Maps images to features with the trained encoder.

        Args:
            images: float `(batch, resolution, resolution, 3)`, as `as_input` returns them.
            training: Whether BatchNorm normalizes with the batch's statistics and updates its
                running statistics.

        Returns:
            float32 `(batch, D)`.
        """
        return self._encode(self.encoder, images, training)

    def ema_features(self, images: tf.Tensor, training: bool = True) -> tf.Tensor:
        """Maps images to features with the averaged encoder; otherwise as `features`."""
        return self._encode(self.ema_encoder, images, training)

    def compiled_part(self, function: Callable) -> Callable:
        """Returns a part of a step, compiled by XLA where parts are compiled one by one.

        Args:
            function: A function of tensors in which replicas exchange nothing.
        """
        if not self.compiles_parts or tf.executing_eagerly():
            return function
        return tf.function(function, jit_compile=True, autograph=False)

    def update_average(self, decay: tf.Tensor, statistics: bool = True) -> None:
        """Moves every averaged weight and statistic towards the trained one.

        Args:
            decay: Weight of the old average, in [0, 1].
            statistics: Whether running statistics are averaged. If not, they are copied.
        """
        if statistics:
            update(self.ema_weights, self.weights, decay)
            return
        trained = {id(variable) for variable in self.trainable_weights}
        for average, variable in zip(self.ema_weights, self.weights, strict=True):
            is_trained = id(variable) in trained
            update([average], [variable], decay if is_trained else tf.constant(0.0))

    @property
    def weights(self) -> list[tf.Variable]:
        """All weights and statistics of the trained network."""
        return _weights_of(self.encoder, self.classifier, *self.heads)

    @property
    def ema_weights(self) -> list[tf.Variable]:
        """Those of the averaged network, in the same order."""
        return _weights_of(self.ema_encoder, self.ema_classifier, *self.ema_heads)

    @property
    def trainable_weights(self) -> list[tf.Variable]:
        """The weights that the gradient reaches: those of the trained network."""
        layers = (self.encoder, self.classifier, *self.heads)
        return [weight for layer in layers for weight in layer.trainable_weights]

    def _encode(self, encoder: keras.Model, images: tf.Tensor, training: bool) -> tf.Tensor:
        encode = self.compiled_part(lambda images: encoder(images, training=training))
        return tf.cast(encode(images), tf.float32)

    def _build(self, num_classes: int) -> int:
        """Creates all weights, the average equal to the network; returns the number of features."""
        image = tf.zeros((1, self.resolution, self.resolution, 3))
        if self.frozen is not None:
            image = tf.zeros((1, *self.frozen.output_shape[1:]))
        for encoder, classifier in (
            (self.encoder, self.classifier),
            (self.ema_encoder, self.ema_classifier),
        ):
            features = encoder(image, training=False)
            if len(features.shape) != 2:
                raise ValueError(
                    "The encoder must map images to feature vectors (batch, D); this one returns "
                    f"{tuple(features.shape)}. Add global average pooling at its end."
                )
            logits = classifier(features)
            if tuple(logits.shape) != (1, num_classes):
                raise ValueError(
                    f"The classifier must map features (batch, {features.shape[-1]}) to logits "
                    f"(batch, {num_classes}), one for each class; this one returns "
                    f"{tuple(logits.shape)} for one image."
                )
        self.ema_encoder.set_weights(self.encoder.get_weights())
        self.ema_classifier.set_weights(self.classifier.get_weights())
        return features.shape[-1]


def decay_at(step: tf.Tensor, decay: float) -> tf.Tensor:
    """Returns the decay of the average at a step: `min(1 - 1 / (step + 1), decay)`.

    It is 0 at step 0, so that the average starts as a copy of the network, and then rises to
    `decay`, so that early weights are forgotten soon.

    Args:
        step: int scalar, from 0.
        decay: The final decay, in [0, 1).

    Returns:
        float32 scalar.

    Example:

    >>> [round(float(decay_at(tf.constant(t), 0.999)), 3) for t in (0, 1, 9, 100000)]
    [0.0, 0.5, 0.9, 0.999]
    """
    return tf.minimum(1.0 - 1.0 / (tf.cast(step, tf.float32) + 1.0), decay)


def update(
    averages: Iterable[tf.Variable], variables: Iterable[tf.Variable], decay: tf.Tensor
) -> None:
    """Moves every average towards its variable, in place.

    Args:
        averages: Variables of the averaged network.
        variables: Variables of the trained network, in the same order. Those that are not floating
            point, such as the seeds of a dropout layer, have no average and are skipped.
        decay: Weight of the old average, in [0, 1].
    """
    for average, variable in zip(averages, variables, strict=True):
        if tf.as_dtype(variable.dtype).is_floating:
            weight = tf.cast(decay, variable.dtype)
            average.assign(weight * average + (1.0 - weight) * variable)


def linear_classifier(units: int, name: str) -> keras.layers.Dense:
    """Returns a linear layer in float32 with the paper's initial weights, Glorot-normal.

    Args:
        units: Its number of outputs.
        name: Its name.
    """
    glorot_normal = scaled_normal(1.0, "fan_avg")
    return keras.layers.Dense(units, kernel_initializer=glorot_normal, name=name, dtype="float32")


def copy_of(network: _Network, name: str) -> _Network:
    """Returns a new model or layer of the same architecture, from its config."""
    config = network.get_config()
    if "name" in config:
        config["name"] = name
    return type(network).from_config(config)


def input_size(encoder: keras.Model) -> int:
    """Returns the side in pixels of the images that the encoder was made for.

    Raises:
        ValueError: If it was not made for square images of one size.
    """
    shape = getattr(encoder, "input_shape", None)
    if not shape or len(shape) != 4 or shape[1] is None or shape[1] != shape[2]:
        raise ValueError(
            f"The encoder's input shape {shape} has no fixed side for square images: give the "
            "learner resolution=, the side in pixels."
        )
    return shape[1]


def _weights_of(*layers: keras.layers.Layer) -> list[tf.Variable]:
    return [weight for layer in layers for weight in layer.weights]
