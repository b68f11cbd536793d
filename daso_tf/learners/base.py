"""What every learner shares: the network and its average, the step, evaluation, saving."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import tensorflow as tf

from daso_tf import ema, losses
from daso_tf.augment import normalise, resize
from daso_tf.export import write_saved_model
from daso_tf.metrics import BalancedAccuracy, ClassStatistics
from daso_tf.pseudo_labels import PseudoLabels

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2471, 0.2435, 0.2616)


class StepOutcome(NamedTuple):
    """What a training step computed.

    Attributes:
        losses: The weighted loss terms by name, scalars; training minimises their sum.
        labeled_logits: float `(batch, K)` of the trained network for the labeled views.
        pseudo_labels: The `PseudoLabels` of the unlabeled batch.
        mask: float `(mu * batch,)`, 1 where a pseudo-label was confident enough to be taught.
        gradient_norm: Global norm of the gradient of the losses' sum, before weight decay.
    """

    losses: dict[str, tf.Tensor]
    labeled_logits: tf.Tensor
    pseudo_labels: PseudoLabels
    mask: tf.Tensor
    gradient_norm: tf.Tensor | None = None


class Learner(keras.Model):
    """A network that learns from labeled and unlabeled images, in one compiled step.

    A subclass says which views are made (`make_views`) and which losses are summed
    (`compute_losses`); this class does what all of them have in common: gradient, weight decay,
    optimizer, moving average, metrics, evaluation and export. Evaluation, prediction and export
    use the moving average (EMA) of the network.

    `fit` takes batches `((labeled, unlabeled), labels)` of raw uint8 images
    `(batch, height, width, 3)`, or `((labeled, unlabeled), (labels, unlabeled_labels))` where the
    true classes of the unlabeled images are known (-1 where not): they are only used to measure
    the pseudo-labels. `evaluate` takes `(images, labels)`.

    Args:
        encoder: A `keras.Model` from normalised float images `(batch, height, width, 3)` to
            features `(batch, D)`.
        num_classes: K, at least 2.
        loss_names: Names of the loss terms that `compute_losses` gives back.
        resolution: Side in pixels to which views are resized before the encoder. By default the
            encoder's own input size.
        mean: Mean of each colour channel, in [0, 1].
        std: Standard deviation of each colour channel, above 0.
        weight_decay: L2 factor, *added to the gradient* of every parameter (not decoupled).
        ema_decay: Final decay of the moving average, in [0, 1).
        labeled_counts: Labeled images of each class, K numbers; needed for logit adjustment.
        logit_adjustment: tau, the weight of the classes' log prior on the logits of the
            supervised loss; 0 for none.
        class_names: K names, which the export gives back.
        seed: With the step it decides every random draw of the step.
        name: Of the model.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        encoder: keras.Model,
        num_classes: int,
        *,
        loss_names: tuple[str, ...],
        resolution: int | None = None,
        mean: tuple[float, float, float] = CIFAR10_MEAN,
        std: tuple[float, float, float] = CIFAR10_STD,
        weight_decay: float = 5e-4,
        ema_decay: float = 0.999,
        labeled_counts: list[int] | None = None,
        logit_adjustment: float = 0.0,
        class_names: list[str] | None = None,
        seed: int = 0,
        name: str | None = None,
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        self.num_classes = int(num_classes)
        self.resolution = int(resolution or _input_size(encoder))
        self.mean = tuple(float(value) for value in mean)
        self.std = tuple(float(value) for value in std)
        self.weight_decay = float(weight_decay)
        self.ema_decay = float(ema_decay)
        self.labeled_counts = None if labeled_counts is None else tuple(map(int, labeled_counts))
        self.logit_adjustment = float(logit_adjustment)
        self.class_names = None if class_names is None else tuple(map(str, class_names))
        self.seed = int(seed)
        self._check_arguments()

        self.encoder = encoder
        self.classifier = _classifier(self.num_classes, "classifier")
        self.ema_encoder = _copy(encoder, f"ema_{encoder.name}")
        self.ema_classifier = _classifier(self.num_classes, "ema_classifier")
        self.num_features = self._build_networks()
        self.step = self.add_weight(
            name="step", shape=(), initializer="zeros", trainable=False, dtype="int64"
        )

        self._means = {
            name: keras.metrics.Mean(name)
            for name in ("loss", *loss_names, "mask_rate", "gradient_norm")
        }
        self.pseudo_label_statistics = {
            kind: ClassStatistics(self.num_classes, name)
            for kind, name in (
                ("linear", "linear_pseudo_label"),
                ("semantic", "semantic_pseudo_label"),
                ("final", "pseudo_label"),
            )
        }
        self._test_metrics = [
            keras.metrics.Mean("loss"),
            keras.metrics.SparseCategoricalAccuracy("accuracy"),
            BalancedAccuracy(self.num_classes),
        ]
        self._evaluating = False
        self.built = True

    # What a learner is made of ---------------------------------------------------------------

    def make_views(self, labeled: tf.Tensor, unlabeled: tf.Tensor, seed: tf.Tensor) -> Any:
        """Makes the views of a step from raw images; what they are is the learner's own.

        Args:
            labeled: uint8 `(batch, height, width, 3)`.
            unlabeled: uint8 `(mu * batch, height, width, 3)`.
            seed: int32 `(2,)`, another one in every step.
        """
        raise ValueError(f"{type(self).__name__} does not say which views it makes: `make_views`.")

    def compute_losses(self, views: Any, labels: tf.Tensor) -> StepOutcome:
        """Computes the loss terms of a step from its views.

        Args:
            views: What `make_views` gave back.
            labels: int `(batch,)`, classes in 0..K-1 of the labeled images.
        """
        raise ValueError(f"{type(self).__name__} does not say what it minimises: `compute_losses`.")

    def as_input(self, images: tf.Tensor) -> tf.Tensor:
        """Turns uint8 images into what the encoder takes: resized, then normalised."""
        size = (self.resolution, self.resolution)
        return normalise(resize(images, size), self.mean, self.std)

    def supervised_loss(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Computes the mean cross-entropy of the labeled logits, adjusted by the class prior.

        Reference:
            Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, equation 10.
        """
        if self.logit_adjustment:
            logits += self.logit_adjustment * self._log_prior()
        return tf.reduce_mean(losses.cross_entropy(labels, logits))

    # The step --------------------------------------------------------------------------------

    def train_step(self, data):
        """Makes views of raw images and trains on them; one compiled function."""
        (labeled, unlabeled), labels = _unpacked(data)
        labels, unlabeled_labels = labels if isinstance(labels, (tuple, list)) else (labels, None)
        seed = tf.stack([self.seed, tf.cast(self.step, tf.int32)])
        outcome = self.train_on_views(self.make_views(labeled, unlabeled, seed), labels)
        return self._track(outcome, labels, unlabeled_labels)

    def train_on_views(self, views: Any, labels: tf.Tensor) -> StepOutcome:
        """Trains one step on views that are already made.

        Args:
            views: What `make_views` gives back.
            labels: int `(batch,)`, classes in 0..K-1 of the labeled images.

        Returns:
            The `StepOutcome`.
        """
        variables = self.trainable_variables
        with tf.GradientTape() as tape:
            outcome = self.compute_losses(views, labels)
            total = tf.add_n(list(outcome.losses.values()))
        gradients = tape.gradient(total, variables)
        outcome = outcome._replace(gradient_norm=tf.linalg.global_norm(gradients))
        # L2 on every parameter, biases and BatchNorm included, as PyTorch's SGD has it.
        decayed = [g + self.weight_decay * v for g, v in zip(gradients, variables, strict=True)]
        self.optimizer.apply_gradients(zip(decayed, variables, strict=True))
        ema.update(
            self.ema_encoder.weights + self.ema_classifier.weights,
            self.encoder.weights + self.classifier.weights,
            ema.decay_at(tf.convert_to_tensor(self.step), self.ema_decay),
        )
        self.step.assign_add(1)
        return outcome

    # What the person at the Keras interface sees ----------------------------------------------

    def call(self, inputs, training=False):
        """Classifies raw images with the EMA network.

        Args:
            inputs: uint8 `(batch, height, width, 3)` of any size.
            training: Unused: the trained network is not the one that answers.

        Returns:
            float32 probabilities `(batch, K)`.
        """
        return tf.nn.softmax(self.ema_logits(inputs))

    def ema_logits(self, images: tf.Tensor) -> tf.Tensor:
        """Computes the logits of the EMA network, BatchNorm in inference mode.

        Args:
            images: uint8 `(batch, height, width, 3)` of any size.

        Returns:
            float32 `(batch, K)`.
        """
        features = self.ema_encoder(self.as_input(images), training=False)
        return tf.cast(self.ema_classifier(features), tf.float32)

    def test_step(self, data):
        """Measures the EMA network on raw images and their classes."""
        images, labels = _unpacked(data)
        logits = self.ema_logits(images)
        loss, accuracy, balanced_accuracy = self._test_metrics
        loss.update_state(losses.cross_entropy(labels, logits))
        accuracy.update_state(labels, logits)
        balanced_accuracy.update_state(labels, tf.argmax(logits, axis=-1))
        return self.compute_metrics(images, labels, tf.nn.softmax(logits), None)

    def evaluate(self, *args, **kwargs):
        """Evaluates the EMA network; arguments and result as for `keras.Model.evaluate`."""
        self._evaluating = True
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            self._evaluating = False

    @property
    def metrics(self):
        """The metrics of training, or of evaluation while it runs.

        They are kept apart so that an evaluation inside `fit` does not wipe what was counted in
        training. Metrics given to `compile` belong to both.
        """
        training = [*self._means.values(), *self.pseudo_label_statistics.values()]
        own = {id(metric) for metric in (*training, *self._test_metrics)}
        return (self._test_metrics if self._evaluating else training) + [
            metric
            for metric in super().metrics
            # Keras keeps a mean "loss" for losses given to `compile`, of which there are none.
            if id(metric) not in own and metric.name != "loss"
        ]

    def compile(self, *args, loss=None, **kwargs):
        """Configures training; as `keras.Model.compile`, but the losses are the learner's own."""
        if loss is not None:
            raise ValueError(
                f"{type(self).__name__} has its own losses; compile it without loss={loss!r}."
            )
        super().compile(*args, **kwargs)
        # Everything that training remembers exists from here on, so that it can be restored.
        self.optimizer.build(self.trainable_variables)
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
    def trainable_weights(self):
        """The parameters that the gradient reaches: not those of the moving average."""
        return self.encoder.trainable_weights + self.classifier.trainable_weights

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
            "weight_decay": self.weight_decay,
            "ema_decay": self.ema_decay,
            "labeled_counts": self.labeled_counts,
            "logit_adjustment": self.logit_adjustment,
            "class_names": self.class_names,
            "seed": self.seed,
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

    # Parts of the above ----------------------------------------------------------------------

    def _log_prior(self) -> tf.Tensor:
        counts = tf.constant(self.labeled_counts, tf.float32)
        return tf.math.log(counts / tf.reduce_sum(counts))

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

    def _track(self, outcome: StepOutcome, labels, unlabeled_labels) -> dict[str, tf.Tensor]:
        """Updates the metrics of training and returns those that the progress bar shows."""
        total = tf.add_n(list(outcome.losses.values()))
        for name, value in {
            "loss": total,
            **outcome.losses,
            "mask_rate": outcome.mask,
            "gradient_norm": outcome.gradient_norm,
        }.items():
            self._means[name].update_state(value)
        logs = {name: metric.result() for name, metric in self._means.items()}
        if unlabeled_labels is not None:
            for kind, statistics in self.pseudo_label_statistics.items():
                statistics.update_state(unlabeled_labels, getattr(outcome.pseudo_labels, kind))
            logs.update(self.pseudo_label_statistics["final"].result())
        self.compute_metrics(None, labels, tf.nn.softmax(outcome.labeled_logits), None)
        compiled = self.metrics[len(self._means) + len(self.pseudo_label_statistics) :]
        for metric in compiled:
            result = metric.result()
            logs.update(result if isinstance(result, dict) else {metric.name: result})
        return logs

    def _check_arguments(self) -> None:
        """Raises a ValueError that names the first argument outside its range."""
        if self.num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, not {self.num_classes}.")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(
                "mean and std must be three numbers each, those of std above 0, not "
                f"mean={self.mean}, std={self.std}."
            )
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must be at least 0, not {self.weight_decay}.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), not {self.ema_decay}.")
        for name in ("labeled_counts", "class_names"):
            value = getattr(self, name)
            if value is not None and len(value) != self.num_classes:
                raise ValueError(
                    f"{name} must have one entry for each of the {self.num_classes} classes, not "
                    f"{len(value)}."
                )
        if self.logit_adjustment < 0:
            raise ValueError(f"logit_adjustment must be at least 0, not {self.logit_adjustment}.")
        if self.logit_adjustment and (not self.labeled_counts or min(self.labeled_counts) < 1):
            raise ValueError(
                "Logit adjustment needs labeled_counts, at least 1 for every class, not "
                f"{self.labeled_counts}."
            )


def _unpacked(data) -> tuple:
    """Returns inputs and labels of what Keras hands to a step."""
    inputs, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
    if labels is None or weights is not None:
        raise ValueError(
            "A batch is (inputs, labels), without sample weights; this one has "
            f"{'no labels' if labels is None else 'sample weights'}."
        )
    return inputs, labels


def _classifier(num_classes: int, name: str) -> keras.layers.Dense:
    glorot_normal = keras.initializers.VarianceScaling(
        scale=1.0, mode="fan_avg", distribution="untruncated_normal"
    )
    return keras.layers.Dense(num_classes, kernel_initializer=glorot_normal, name=name)


def _copy(encoder: keras.Model, name: str) -> keras.Model:
    """Makes the same architecture again; by way of the config, as every kind of model has one."""
    config = encoder.get_config()
    if "name" in config:
        config["name"] = name
    return type(encoder).from_config(config)


def _input_size(encoder: keras.Model) -> int:
    """Returns the side in pixels of the images that the encoder was made for."""
    shape = getattr(encoder, "input_shape", None)
    if not shape or len(shape) != 4 or shape[1] is None or shape[1] != shape[2]:
        raise ValueError(
            f"The encoder's input shape {shape} does not say one side for square images: give "
            "the learner resolution=, the side in pixels."
        )
    return shape[1]
