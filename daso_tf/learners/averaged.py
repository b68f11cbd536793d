"""A classifier and its moving average, as the person at the Keras interface sees them."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from daso_tf import losses
from daso_tf.augment import normalise, resize
from daso_tf.balance.logit_adjustment import log_prior
from daso_tf.balance.supervised_loss import checked_counts
from daso_tf.encoders.precision import computes_in
from daso_tf.export import write_saved_model
from daso_tf.keras_versions import build_optimizer, jit_compiles, scales_losses, step_logs
from daso_tf.learners.networks import copy_of, input_size, linear_classifier, weights_of
from daso_tf.metrics import BalancedAccuracy

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2471, 0.2435, 0.2616)


class AveragedClassifier(keras.Model):
    """Classifies raw images with the moving average (EMA) of a network.

    The network is an encoder and a linear classifier; both exist twice, as they are trained and
    as they are averaged. Evaluation, prediction and export use the average. How the network is
    trained is a subclass's business.

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
        self._test_metrics = [
            keras.metrics.Mean("loss"),
            keras.metrics.SparseCategoricalAccuracy("accuracy"),
            BalancedAccuracy(self.num_classes),
        ]
        self._training_metrics: list[keras.metrics.Metric] = []
        self._evaluating = False
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
        features = self.ema_encoder(self.as_input(images), training=False)
        logits = tf.cast(self.answering_classifier(features), tf.float32)
        if not self.test_logit_adjustment:
            return logits
        prior = tf.constant(log_prior(self.labeled_counts), logits.dtype)
        return logits - self.test_logit_adjustment * prior

    def test_step(self, data):
        """Measures the EMA network on raw images and their classes."""
        images, labels = unpack(data)
        logits = self.ema_logits(images)
        loss, accuracy, balanced_accuracy = self._test_metrics
        loss.update_state(losses.cross_entropy(labels, logits))
        accuracy.update_state(labels, logits)
        balanced_accuracy.update_state(labels, tf.argmax(logits, axis=-1))
        logs = self.compute_metrics(images, labels, tf.nn.softmax(logits), None)
        return step_logs(self, logs)

    def evaluate(self, *args, **kwargs):
        """Evaluates the EMA network; arguments and result as for `keras.Model.evaluate`."""
        self._evaluating = True
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            self._evaluating = False

    def predict(self, *args, **kwargs):
        """Predicts by the EMA network; arguments and result as for `keras.Model.predict`.

        It goes batch by batch whatever `steps_per_execution` is: Keras would compile as many copies
        of the network into one function, and keep their images in memory together.
        """
        steps_per_execution = int(self.steps_per_execution or 1)
        self.steps_per_execution = 1
        try:
            return super().predict(*args, **kwargs)
        finally:
            self.steps_per_execution = steps_per_execution

    def compile(self, *args, loss=None, **kwargs):
        """Configures training; as `keras.Model.compile`, but the losses are the learner's own.

        Where the encoder computes in float16, the optimizer is wrapped in a
        `keras.mixed_precision.LossScaleOptimizer`, unless it is one.
        """
        if loss is not None:
            raise ValueError(
                f"{type(self).__name__} has its own losses; compile it without loss={loss!r}."
            )
        super().compile(*args, **kwargs)
        if self.distribute_strategy.num_replicas_in_sync > 1:
            self._check_replicas()
        scaling = keras.mixed_precision.LossScaleOptimizer
        if computes_in(self.encoder, "float16") and not isinstance(self.optimizer, scaling):
            self.optimizer = scaling(self.optimizer)
        # Everything that training remembers exists from here on, so that it can be restored.
        build_optimizer(self.optimizer, self.trainable_variables)
        nothing = tf.fill([1, self.num_classes], 1.0 / self.num_classes)
        self.compute_metrics(None, tf.zeros([1], tf.int32), nothing, None)
        self.reset_metrics()

    def compile_from_config(self, config):
        """Compiles a loaded model as the saved one was; Keras asks for it as `compile` is ours."""
        self.compile(**keras.saving.deserialize_keras_object(config))

    def export(self, filepath, **kwargs) -> None:
        """Writes a SavedModel for inference, of the EMA network.

        Args:
            filepath: The directory; see `daso_tf.export.write_saved_model` for the signature.
            **kwargs: None are allowed; Keras's own formats and signatures do not apply.
        """
        if kwargs:
            raise ValueError(
                f"export writes a TensorFlow SavedModel with the signature for raw images; it "
                f"takes no {', '.join(kwargs)}."
            )
        write_saved_model(self, filepath, self.class_names)

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

    @property
    def metrics(self):
        """The metrics of training, or of evaluation while it runs.

        They are kept apart so that an evaluation inside `fit` does not wipe what was counted in
        training. Metrics given to `compile` belong to both.
        """
        now = self._test_metrics if self._evaluating else self._training_metrics
        return [*now, *self.user_metrics]

    @property
    def user_metrics(self) -> list[keras.metrics.Metric]:
        """The metrics that were given to `compile`."""
        own = {id(metric) for metric in (*self._training_metrics, *self._test_metrics)}
        # Keras keeps a mean "loss" for a loss given to `compile`, of which there is none.
        return [m for m in super().metrics if id(m) not in own and m.name != "loss"]

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

    def _check_replicas(self):
        """Raises a ValueError where the model cannot be trained on several replicas."""
        if jit_compiles(self):
            raise ValueError(
                "jit_compile=True does not go with several replicas: XLA cannot compile what they "
                "tell each other within a step."
            )
        if scales_losses(self.optimizer):
            raise ValueError(
                "An optimizer that scales losses does not go with several replicas, which cannot "
                "skip a step together. Take mixed_bfloat16 in the place of mixed_float16."
            )

    def _maybe_symbolic_build(self, *args, **kwargs):
        """Does nothing: all is built, and Keras 3 fails to look at a batch of many workers."""

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


def unpack(data) -> tuple:
    """Returns inputs and labels of what Keras hands to a step."""
    inputs, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
    if labels is None or weights is not None:
        raise ValueError(
            "A batch is (inputs, labels), without sample weights; this one has "
            f"{'no labels' if labels is None else 'sample weights'}."
        )
    return inputs, labels
