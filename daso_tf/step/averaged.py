"""A classifier and its moving average, as the person at the Keras interface sees them."""

from __future__ import annotations

import keras
import tensorflow as tf

from daso_tf.encoders.batch_normalization import BatchNormalization, batch_norms_of
from daso_tf.encoders.precision import computes_in
from daso_tf.platform.keras_versions import KERAS_3, build_optimizer, scales_losses, step_logs
from daso_tf.step import losses
from daso_tf.step.averaged_network import AveragedNetwork
from daso_tf.step.export import write_saved_model
from daso_tf.step.metrics import BalancedAccuracy

JIT_COMPILE_DEFAULT = "auto" if KERAS_3 else None  # Keras's own


class AveragedClassifier(AveragedNetwork):
    """What a Keras user calls on an averaged network: compile, evaluate, predict, export, metrics.

    Evaluation, prediction and export use the average.

    Args:
        encoder: As for `AveragedNetwork`.
        num_classes: K, at least 2.
        **kwargs: As for `AveragedNetwork`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(self, encoder: keras.Model, num_classes: int, **kwargs):
        super().__init__(encoder, num_classes, **kwargs)
        self._test_metrics = [
            keras.metrics.Mean("loss"),
            keras.metrics.SparseCategoricalAccuracy("accuracy"),
            BalancedAccuracy(self.num_classes),
        ]
        self._training_metrics: list[keras.metrics.Metric] = []
        self._evaluating = False
        self.built = True

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

    def compile(self, *args, loss=None, jit_compile=JIT_COMPILE_DEFAULT, **kwargs):
        """Configures training; as `keras.Model.compile`, but the losses are the learner's own.

        `jit_compile` may also be `"batch_norm"`: XLA then compiles BatchNorm and its activation
        alone, which is the fastest on a CPU, where TensorFlow's convolutions are faster than XLA's.
        On several replicas `jit_compile=True` has XLA compile the networks of each, and its views.

        Where the encoder computes in float16, the optimizer is wrapped in a
        `keras.mixed_precision.LossScaleOptimizer`, unless it is one.
        """
        if loss is not None:
            raise ValueError(
                f"{type(self).__name__} has its own losses; compile it without loss={loss!r}."
            )
        several = self.distribute_strategy.num_replicas_in_sync > 1
        self._compiles_parts = several and jit_compile is True
        for norm in (*batch_norms_of(self.encoder), *batch_norms_of(self.ema_encoder)):
            if isinstance(norm, BatchNormalization):
                norm.jit_compile = jit_compile == "batch_norm"
        self._asked_jit_compile = jit_compile
        in_parts = several or jit_compile == "batch_norm"
        super().compile(*args, jit_compile=False if in_parts else jit_compile, **kwargs)
        if several:
            self._check_replicas()
        scaling = keras.mixed_precision.LossScaleOptimizer
        if computes_in(self.encoder, "float16") and not isinstance(self.optimizer, scaling):
            self.optimizer = scaling(self.optimizer)
        # Everything that training remembers exists from here on, so that it can be restored.
        build_optimizer(self.optimizer, self.trainable_variables)
        nothing = tf.fill([1, self.num_classes], 1.0 / self.num_classes)
        self.compute_metrics(None, tf.zeros([1], tf.int32), nothing, None)
        self.reset_metrics()

    def get_compile_config(self):
        """Returns the arguments of `compile`, for a saved model."""
        config = super().get_compile_config()
        return config and {**config, "jit_compile": self._asked_jit_compile}

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

    def _check_replicas(self):
        """Raises a ValueError where the model cannot be trained on several replicas."""
        norms = [*batch_norms_of(self.encoder), *batch_norms_of(self.ema_encoder)]
        if self._compiles_parts and any(norm.synchronized for norm in norms):
            raise ValueError(
                "jit_compile=True does not go with synchronized BatchNorm on several replicas: XLA "
                "compiles the network of each by itself, and its layers cannot tell the others "
                "anything. Make the encoder with synchronized_batch_norm=False "
                "(--nosynchronized_batch_norm), or take jit_compile=False."
            )
        if scales_losses(self.optimizer):
            raise ValueError(
                "An optimizer that scales losses does not go with several replicas, which cannot "
                "skip a step together. Take mixed_bfloat16 in the place of mixed_float16."
            )

    def _maybe_symbolic_build(self, *args, **kwargs):
        """Does nothing: all is built, and Keras 3 fails to look at a batch of many workers."""


def unpack(data) -> tuple:
    """Returns inputs and labels of what Keras hands to a step."""
    inputs, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
    if labels is None or weights is not None:
        raise ValueError(
            "A batch is (inputs, labels), without sample weights; this one has "
            f"{'no labels' if labels is None else 'sample weights'}."
        )
    return inputs, labels
