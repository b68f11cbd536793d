"""A network and its moving average: what maps images to classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from daso_tf.augment import normalise, resize
from daso_tf.balance.logit_adjustment import log_prior
from daso_tf.platform.checks import checked_counts
from daso_tf.step.networks import copy_of, input_size, linear_classifier, weights_of

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2471, 0.2435, 0.2616)


class AveragedNetwork(keras.Model):
    """Classifies raw images with the moving average (EMA) of a network.

    The network is an encoder and a linear classifier; both exist twice, as they are trained and
    as they are averaged, and it is the average that answers. How the network is trained, measured
    and exported is a subclass's business.

    Args:
        encoder: A `keras.Model` from normalised float images `(batch, height, width, 3)` to
            features `(batch, D)`.
        num_classes: K, at least 2.
        resolution: Side in pixels to which images are resized before the encoder. By default the
            encoder's own input size.
        mean: Mean of each colour channel, in [0, 1].
        std: Standard deviation of each colour channel, above 0.
        class_names: K names, which the export gives back.
        test_logit_adjustment: Strength (tau, at least 0) of logit adjustment at test time: what
            evaluation, prediction and export answer by is the logits minus tau times the logarithm
            of the labeled classes' shares. It has no part in training.
        labeled_counts: Labeled images of each class, which that needs.
        **kwargs: As for `keras.Model`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        encoder: keras.Model,
        num_classes: int,
        *,
        resolution: int | None = None,
        mean: tuple[float, float, float] = CIFAR10_MEAN,
        std: tuple[float, float, float] = CIFAR10_STD,
        class_names: list[str] | None = None,
        test_logit_adjustment: float = 0.0,
        labeled_counts: Sequence[int] | None = None,
        **kwargs,
    ):
        super().__init__(dtype="float32", **kwargs)  # its parts have policies of their own
        self.num_classes = int(num_classes)
        self.resolution = int(resolution or input_size(encoder))
        self.mean = tuple(float(value) for value in mean)
        self.std = tuple(float(value) for value in std)
        self.class_names = None if class_names is None else tuple(map(str, class_names))
        self.test_logit_adjustment = float(test_logit_adjustment)
        self.labeled_counts = None if labeled_counts is None else checked_counts(labeled_counts)
        if self.num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, not {self.num_classes}.")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(
                "mean and std must be three numbers each, those of std above 0, not "
                f"mean={self.mean}, std={self.std}."
            )
        if not self.test_logit_adjustment >= 0:
            raise ValueError(
                f"test_logit_adjustment must be at least 0, not {self.test_logit_adjustment}."
            )
        if self.test_logit_adjustment and self.labeled_counts is None:
            raise ValueError(
                "test_logit_adjustment needs labeled_counts, the labeled images of each class."
            )
        self._check_one_for_each_class("class_names", self.class_names)
        self._check_one_for_each_class("labeled_counts", self.labeled_counts)

        self.encoder = encoder
        self.classifier = linear_classifier(self.num_classes, "classifier")
        self.ema_encoder = copy_of(encoder, f"ema_{encoder.name}")
        self.ema_classifier = linear_classifier(self.num_classes, "ema_classifier")
        self.num_features = self._build_networks()
        self._heads: list[keras.layers.Layer] = []
        self._ema_heads: list[keras.layers.Layer] = []
        self._compiles_parts = False
        self.built = True

    def add_head(self, name: str, units: int) -> tuple[keras.layers.Layer, keras.layers.Layer]:
        """Adds a linear layer on the features, beside the classifier: trained, averaged, saved.

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
        self._heads.append(head)
        self._ema_heads.append(ema_head)
        return head, ema_head

    def as_input(self, images: tf.Tensor) -> tf.Tensor:
        """Turns uint8 images into what the encoder takes: resized, then normalised."""
        size = (self.resolution, self.resolution)
        return normalise(resize(images, size), self.mean, self.std)

    def features(self, images: tf.Tensor, training: bool = True) -> tf.Tensor:
        """Maps images to features by the trained encoder.

        Args:
            images: float `(batch, resolution, resolution, 3)`, as `as_input` makes them.
            training: Whether BatchNorm normalises with the batch's statistics, and its running
                ones move.

        Returns:
            float32 `(batch, D)`.
        """
        return self._features_by(self.encoder, images, training)

    def ema_features(self, images: tf.Tensor, training: bool = True) -> tf.Tensor:
        """Maps images to features by the averaged encoder; otherwise as `features`."""
        return self._features_by(self.ema_encoder, images, training)

    def compiled_part(self, function: Callable) -> Callable:
        """Lets XLA compile a part of a step, on replicas that are to be compiled.

        What replicas tell each other within a step keeps XLA from compiling it as a whole.

        Args:
            function: Of tensors; one that has no part in what replicas tell each other.

        Returns:
            The function, compiled; as it is where the whole step is compiled, or nothing.
        """
        if not self._compiles_parts or tf.executing_eagerly():
            return function
        return tf.function(function, jit_compile=True, autograph=False)

    def call(self, inputs, training=False):
        """Classifies raw images with the EMA network.

        Args:
            inputs: uint8 `(batch, height, width, 3)` of any size.
            training: Unused: the trained network is not the one that answers.

        Returns:
            float32 probabilities `(batch, K)`.
        """
        return tf.nn.softmax(self.ema_logits(inputs))

    @property
    def answering_classifier(self) -> keras.layers.Layer:
        """The averaged classifier by whose logits evaluation, prediction and export answer."""
        return self.ema_classifier

    def ema_logits(self, images: tf.Tensor) -> tf.Tensor:
        """Computes the logits of the EMA network, BatchNorm in inference mode, adjusted if asked.

        Args:
            images: uint8 `(batch, height, width, 3)` of any size.

        Returns:
            float32 `(batch, K)`.
        """
        features = self.ema_features(self.as_input(images), training=False)
        logits = tf.cast(self.answering_classifier(features), tf.float32)
        if not self.test_logit_adjustment:
            return logits
        prior = tf.constant(log_prior(self.labeled_counts), logits.dtype)
        return logits - self.test_logit_adjustment * prior

    @property
    def network_weights(self):
        """All weights and statistics of the trained network."""
        return weights_of(self.encoder, self.classifier, *self._heads)

    @property
    def ema_network_weights(self):
        """Those of its average, in the same order."""
        return weights_of(self.ema_encoder, self.ema_classifier, *self._ema_heads)

    @property
    def trainable_weights(self):
        """The parameters that the gradient reaches: not those of the moving average."""
        trained = (self.encoder, self.classifier, *self._heads)
        return [weight for layer in trained for weight in layer.trainable_weights]

    @property
    def trainable_variables(self):
        """The same as `trainable_weights`."""
        return self.trainable_weights

    @property
    def non_trainable_weights(self):
        """Everything else that is saved: statistics, the moving average, queues, the step."""
        trained = {id(weight) for weight in self.trainable_weights}
        return [weight for weight in self.weights if id(weight) not in trained]

    @property
    def non_trainable_variables(self):
        """The same as `non_trainable_weights`."""
        return self.non_trainable_weights

    def get_config(self):
        """Returns the arguments that make this model again."""
        return {
            "name": self.name,
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "num_classes": self.num_classes,
            "resolution": self.resolution,
            "mean": self.mean,
            "std": self.std,
            "class_names": self.class_names,
            "test_logit_adjustment": self.test_logit_adjustment,
            "labeled_counts": self.labeled_counts,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Makes the model from what `get_config` gave back."""
        config = {
            key: keras.saving.deserialize_keras_object(value, custom_objects=custom_objects)
            if isinstance(value, dict)
            else value
            for key, value in config.items()
        }
        return cls(**config)

    def _features_by(self, encoder, images, training):
        encode = self.compiled_part(lambda images: encoder(images, training=training))
        return tf.cast(encode(images), tf.float32)

    def _build_networks(self) -> int:
        """Makes every variable of the networks, the average equal to the network."""
        image = tf.zeros((1, self.resolution, self.resolution, 3))
        for encoder, classifier in (
            (self.encoder, self.classifier),
            (self.ema_encoder, self.ema_classifier),
        ):
            features = encoder(image, training=False)
            if len(features.shape) != 2:
                raise ValueError(
                    "The encoder must map images to feature vectors (batch, D); this one gives "
                    f"{tuple(features.shape)}. Add global average pooling at its end."
                )
            classifier(features)
        self.ema_encoder.set_weights(self.encoder.get_weights())
        self.ema_classifier.set_weights(self.classifier.get_weights())
        return features.shape[-1]

    def _check_one_for_each_class(self, name: str, values: tuple | None) -> None:
        if values is not None and len(values) != self.num_classes:
            raise ValueError(
                f"{name} must have one entry for each of the {self.num_classes} classes, not "
                f"{len(values)}."
            )
