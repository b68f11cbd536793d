"""A classifier of raw images as a Keras model: compile, evaluate, predict, export, save."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from daso_tf.balance.logit_adjustment import adjusted
from daso_tf.encoders.batch_normalization import (
    BatchNormalization,
    batch_norms_of,
    follow_quickly,
)
from daso_tf.encoders.checks import check_encoder, is_restoring, restoring
from daso_tf.encoders.normalized_input import check_normalization, normalization_of
from daso_tf.encoders.precision import computes_in
from daso_tf.platform.checks import (
    checked_channel_statistics,
    checked_counts,
    checked_number,
    checked_whole_number,
)
from daso_tf.platform.keras_versions import (
    KERAS_3,
    build_optimizer,
    check_configuration,
    scales_losses,
    step_logs,
)
from daso_tf.step import inputs, losses
from daso_tf.step.calibration import Calibrator
from daso_tf.step.export import write_saved_model
from daso_tf.step.formats import write_litert, write_onnx
from daso_tf.step.metrics import BalancedAccuracy
from daso_tf.step.network import AveragedNetwork
from daso_tf.step.outcome import Outputs

JIT_COMPILE_DEFAULT = "auto" if KERAS_3 else None  # Keras's own


class Classifier(keras.Model):
    """Classifies raw images with the moving average (EMA) of a network.

    Evaluation, prediction and export use the average. How the network is trained is defined by
    `Learner`.

    Args:
        encoder: A `keras.Model` from normalized float images `(batch, height, width, 3)` to
            features `(batch, D)`. The momentum of Keras's BatchNorm layers in it is lowered to
            0.9, so that evaluation has the statistics of the trained weights.
        num_classes: K, at least 2.
        mean: Mean of each color channel of the training images, in [0, 1]: `data.mean` of
            `daso_tf.data.load`, or the result of `daso_tf.data.channel_statistics`. Leave it out
            where the encoder has its own (`daso_tf.encoders.normalization_of`).
        std: Standard deviation of each color channel, in (0, 1], as `mean`.
        resolution: Side in pixels, at least 1, to which images are resized before the encoder. By
            default the encoder's own input size.
        class_names: K names, which the exported model returns.
        test_logit_adjustment: Strength (tau, at least 0) of logit adjustment at test time:
            evaluation, prediction and export subtract tau times the logarithm of the labeled
            class distribution from the logits. It does not change training.
        labeled_counts: Labeled images of each class, needed for `test_logit_adjustment`.
        frozen_encoder: A pretrained `keras.Model` from normalized images to features that stays as
            it is. `encoder` is then a small network from these features `(batch, F)` to others,
            such as `daso_tf.encoders.adapter` makes. Images may be rows of a feature bank
            (`daso_tf.feature_bank`), for which the frozen encoder has nothing left to compute.
        classifier: A `keras.layers.Layer` from features `(batch, D)` to logits `(batch, K)`, such
            as `daso_tf.step.cosine_classifier.CosineClassifier`, or its name on the command line,
            such as `"cosine"`; by default a linear layer.
        name: Name of the model.

    Raises:
        ValueError: If an argument is outside its range.
    """

    optimizer: keras.optimizers.Optimizer  # set by `compile`

    def __init__(
        self,
        encoder: keras.Model,
        num_classes: int,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        resolution: int | None = None,
        class_names: Sequence[str] | None = None,
        test_logit_adjustment: float = 0.0,
        labeled_counts: Sequence[int] | None = None,
        frozen_encoder: keras.Model | None = None,
        classifier: keras.layers.Layer | None = None,
        name: str | None = None,
    ):
        check_configuration()
        check_encoder(encoder)
        super().__init__(dtype="float32", name=name)  # its parts have their own dtype policies
        self.num_classes = checked_whole_number("num_classes", num_classes, least=2)
        mean, std = _checked_statistics(frozen_encoder or encoder, mean, std)
        if resolution is not None:
            checked_whole_number("resolution", resolution, least=1)
        self.class_names = None if class_names is None else tuple(map(str, class_names))
        self.test_logit_adjustment = checked_number(
            "test_logit_adjustment", test_logit_adjustment, least=0
        )
        self.labeled_counts = None if labeled_counts is None else checked_counts(labeled_counts)
        if self.test_logit_adjustment and self.labeled_counts is None:
            raise ValueError(
                "test_logit_adjustment needs labeled_counts, the labeled images of each class."
            )
        self._check_one_per_class("class_names", self.class_names)
        self._check_one_per_class("labeled_counts", self.labeled_counts)

        if not is_restoring():  # a saved learner continues as it was
            follow_quickly(encoder)
        _check_classifier(classifier)
        if frozen_encoder is not None:
            check_encoder(frozen_encoder)
            frozen_encoder.trainable = False
            self.frozen_encoder = frozen_encoder  # Keras saves it, too
        self.network = AveragedNetwork(
            encoder, self.num_classes, resolution, mean, std, frozen_encoder, classifier
        )
        self._given_classifier = classifier is not None
        # Keras saves the layers that are attributes of the model.
        self.encoder = self.network.encoder
        self.classifier = self.network.classifier
        self.ema_encoder = self.network.ema_encoder
        self.ema_classifier = self.network.ema_classifier
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

    # The network -----------------------------------------------------------------------------

    @property
    def resolution(self) -> int:
        """Side in pixels of the encoder's input."""
        return self.network.resolution

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each color channel."""
        return self.network.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each color channel."""
        return self.network.std

    @property
    def num_features(self) -> int:
        """D, the length of a feature vector."""
        return self.network.num_features

    @property
    def stored_features(self) -> int | None:
        """F, the length of the frozen encoder's features; None without a frozen encoder."""
        frozen = self.network.frozen
        return None if frozen is None else frozen.output_shape[-1]

    def add_head(self, name: str, units: int) -> tuple[keras.layers.Layer, keras.layers.Layer]:
        """Adds a linear layer on the features that is trained, averaged and saved.

        Args:
            name: Its name.
            units: Its number of outputs.

        Returns:
            The trained layer and its average.
        """
        head, ema_head = self.network.add_head(name, units)
        self._heads.append(head)
        self._ema_heads.append(ema_head)
        return head, ema_head

    def as_input(self, images: tf.Tensor) -> tf.Tensor:
        """Returns images as the encoder takes them; see `AveragedNetwork.as_input`."""
        return self.network.as_input(images)

    @property
    def answering_classifier(self) -> keras.layers.Layer:
        """The averaged classifier that evaluation, prediction and export use."""
        # Do not rename it: Keras 3 saves a layer under the attribute that is first in the alphabet,
        # so the `.keras` files of users contain this name.
        return self.ema_classifier

    def answering_logits(self, features: tf.Tensor) -> tf.Tensor:
        """Computes the logits of evaluation, prediction and export.

        Args:
            features: float `(batch, D)`, by the averaged encoder.

        Returns:
            float32 `(batch, K)`, without logit adjustment.
        """
        return tf.cast(self.answering_classifier(features), tf.float32)

    def ema_logits(self, images: tf.Tensor) -> tf.Tensor:
        """Computes the logits of the averaged network, with logit adjustment where it is set.

        BatchNorm is in inference mode.

        Args:
            images: uint8 `(batch, height, width, 3)` of any size, or other numbers in 0 to 255,
                which are rounded. With a frozen encoder also rows of its feature bank.

        Returns:
            float32 `(batch, K)`.
        """
        return self.as_answered(self.ema_outputs(images).logits)

    def ema_outputs(self, images: tf.Tensor) -> Outputs:
        """Computes features and logits of the averaged network, without logit adjustment.

        Args:
            images: As for `ema_logits`.

        Returns:
            The `Outputs`.
        """
        images = self.as_input(inputs.raw(images))
        features = self.network.ema_features(images, training=False)
        return Outputs(features, self.answering_logits(features))

    def as_answered(self, logits: tf.Tensor) -> tf.Tensor:
        """Applies logit adjustment, where it is set, to the result of `answering_logits`.

        Args:
            logits: float `(batch, K)`.

        Returns:
            float `(batch, K)`.
        """
        if not self.test_logit_adjustment or self.labeled_counts is None:
            return logits
        return adjusted(logits, self.labeled_counts, self.test_logit_adjustment)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Classifies raw images with the averaged network.

        Args:
            inputs: uint8 `(batch, height, width, 3)` of any size, or other numbers in 0 to 255,
                which are rounded.
            training: Unused: predictions never come from the trained network.

        Returns:
            float32 probabilities `(batch, K)`.
        """
        return tf.nn.softmax(self.ema_logits(inputs))

    # What a Keras user calls -----------------------------------------------------------------

    def compile(
        self,
        *args: Any,
        loss: None = None,
        jit_compile: bool | str | None = JIT_COMPILE_DEFAULT,
        **kwargs: Any,
    ) -> None:
        """Configures training as `keras.Model.compile` does; the learner brings its own losses.

        `jit_compile` may also be `"batch_norm"`: XLA then compiles only BatchNorm and its
        activation. This is the fastest setting on a CPU, where TensorFlow's convolutions are
        faster than XLA's. On several replicas `jit_compile=True` compiles the views and the
        networks of each replica.

        Where the encoder computes in float16, the optimizer is wrapped in a
        `keras.mixed_precision.LossScaleOptimizer`, unless it is one.

        Args:
            *args: As for `keras.Model.compile`.
            loss: Must be None.
            jit_compile: True, False, `"auto"` or `"batch_norm"`.
            **kwargs: As for `keras.Model.compile`.

        Raises:
            ValueError: If a loss is given, or a setting is not possible on several replicas.
        """
        if loss is not None:
            raise ValueError(
                f"{type(self).__name__} has its own losses; compile it without loss={loss!r}."
            )
        several = self.distribute_strategy.num_replicas_in_sync > 1
        self.network.compiles_parts = several and jit_compile is True
        for norm in self._batch_norms():
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
        # Creates everything that training remembers, so that it can be restored.
        build_optimizer(self.optimizer, self.trainable_variables)
        if KERAS_3 or not several:  # Keras 2 updates metrics of several replicas only in a step
            uniform = tf.fill([1, self.num_classes], 1.0 / self.num_classes)
            self.compute_metrics(None, tf.zeros([1], tf.int32), uniform, None)
        self.reset_metrics()

    def get_compile_config(self) -> dict[str, Any] | None:
        """Returns the arguments of `compile`, for a saved model."""
        config = super().get_compile_config()
        return config and {**config, "jit_compile": self._asked_jit_compile}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles a loaded model as the saved one was."""
        self.compile(**keras.saving.deserialize_keras_object(config))

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Measures the averaged network on raw images and their classes."""
        images, labels = inputs.unpack(data)
        parts = inputs.evaluation_parts(images, labels)
        inputs.check_kinds(parts, self.num_classes, self.stored_features)
        logits = self.ema_logits(images)
        loss, accuracy, balanced_accuracy = self._test_metrics
        loss.update_state(losses.cross_entropy(labels, logits))
        accuracy.update_state(labels, logits)
        balanced_accuracy.update_state(labels, tf.argmax(logits, axis=-1))
        logs = self.compute_metrics(images, labels, tf.nn.softmax(logits), None)
        return step_logs(self, logs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluates the averaged network; arguments and result as `keras.Model.evaluate`."""
        guard, given = self._guard(), arguments_of("evaluate", args, kwargs)
        inputs.check_no_weights(given)
        if not given.get("_use_cached_eval_dataset"):  # else `fit` has checked it
            given["x"] = guard.checked(inputs.evaluation_parts, given.get("x"), given.get("y"))
        self._evaluating = True
        try:
            with guard:
                return super().evaluate(**given)
        finally:
            self._evaluating = False

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Predicts with the averaged network; arguments and result as `keras.Model.predict`.

        It computes one batch per call for every `steps_per_execution`: Keras would compile as many
        copies of the network into one function and keep their images in memory together.
        """
        guard, given = self._guard(), arguments_of("predict", args, kwargs)
        given["x"] = guard.checked(inputs.prediction_parts, given.get("x"))
        steps_per_execution = int(getattr(self, "steps_per_execution", None) or 1)
        self.steps_per_execution = 1
        try:
            with guard:
                return super().predict(**given)
        finally:
            self.steps_per_execution = steps_per_execution

    def save(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """Saves everything in a `.keras` file; arguments as `keras.Model.save`.

        Raises:
            ValueError: If the name of the file ends in something else.
        """
        if isinstance(filepath, (str, os.PathLike)) and not str(filepath).endswith(".keras"):
            raise ValueError(
                f"{filepath} does not end in .keras, the only format that holds everything a "
                f"learner remembers. Save it as {os.path.splitext(filepath)[0]}.keras; "
                "export(directory) writes a SavedModel for inference, and "
                'save_weights("NAME.weights.h5") the weights alone.'
            )
        super().save(filepath, *args, **kwargs)

    def export(
        self,
        filepath: str | os.PathLike,
        format: str = "saved_model",
        *,
        size: tuple[int, int] | None = None,
        calibrator: Calibrator | None = None,
        **kwargs: Any,
    ) -> None:
        """Writes the averaged network for inference, in one of three formats.

        All of them take raw `images`, uint8 `(batch, height, width, 3)`, and return
        `probabilities`, `class_ids` and, where they are known, `class_names`. A SavedModel takes
        images of any size, and has a second signature `serve_jpeg` that takes files. LiteRT and
        ONNX take images of one size.

        Args:
            filepath: The directory of a SavedModel, or the file. What an earlier export wrote
                there is replaced.
            format: `"saved_model"`, `"litert"` (TensorFlow Lite), or `"onnx"`, which needs the
                extra `onnx`.
            size: Height and width in pixels of the images that LiteRT or ONNX take; by default the
                resolution of the encoder. The model resizes others itself.
            calibrator: Corrects the probabilities, see `daso_tf.step.calibration.fit_calibrator`.
            **kwargs: None are allowed; Keras's own options do not apply.

        Raises:
            ValueError: If an argument is not allowed, or a converter fails.

        Example:

        ```python
        model.export("digits_export")
        model.export("digits.onnx", format="onnx")
        model.export("photos.tflite", format="litert", size=(256, 256))
        ```
        """
        if kwargs:
            raise ValueError(
                "export writes the signature for raw images; it takes format, size and calibrator, "
                f"but not {', '.join(kwargs)}."
            )
        if format == "saved_model":
            if size is not None:
                raise ValueError(f"size={size!r}, but a SavedModel takes images of any size.")
            return write_saved_model(
                self,
                filepath,
                self.network.resolution,
                self.class_names,
                calibrator=calibrator,
            )
        writers = {"litert": write_litert, "onnx": write_onnx}
        if format not in writers:
            raise ValueError(
                f"format must be 'saved_model', 'litert' or 'onnx', but is {format!r}."
            )
        height, width = (self.network.resolution,) * 2 if size is None else size
        for name, length in {"height": height, "width": width}.items():
            checked_whole_number(f"the {name} in size", length, least=1)
        writers[format](self, filepath, (height, width), self.class_names, calibrator)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The metrics of training, or of evaluation while it runs.

        They are separate, so that an evaluation inside `fit` does not reset the metrics of
        training. Metrics given to `compile` belong to both.
        """
        now = self._test_metrics if self._evaluating else self._training_metrics
        return [*now, *self.user_metrics]

    @property
    def user_metrics(self) -> list[keras.metrics.Metric]:
        """The metrics that were given to `compile`."""
        own = {id(metric) for metric in (*self._training_metrics, *self._test_metrics)}
        # Keras keeps a mean "loss" for the loss given to `compile`; here there is none.
        return [m for m in super().metrics if id(m) not in own and m.name != "loss"]

    # What is saved ---------------------------------------------------------------------------

    @property
    def network_weights(self) -> list[tf.Variable]:
        """All weights and statistics of the trained network."""
        return self.network.weights

    @property
    def ema_network_weights(self) -> list[tf.Variable]:
        """Those of the averaged network, in the same order."""
        return self.network.ema_weights

    @property
    def trainable_weights(self) -> list[tf.Variable]:
        """The weights that the gradient reaches: not those of the average."""
        return self.network.trainable_weights

    @property
    def trainable_variables(self) -> list[tf.Variable]:
        """The same as `trainable_weights`."""
        return self.trainable_weights

    @property
    def non_trainable_weights(self) -> list[tf.Variable]:
        """Everything else that is saved: statistics, the average, queues, the step."""
        trained = {id(weight) for weight in self.trainable_weights}
        return [weight for weight in self.weights if id(weight) not in trained]

    @property
    def non_trainable_variables(self) -> list[tf.Variable]:
        """The same as `non_trainable_weights`."""
        return self.non_trainable_weights

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this model."""
        frozen = self.network.frozen
        return {
            "name": self.name,
            **(
                {}
                if frozen is None
                else {"frozen_encoder": keras.saving.serialize_keras_object(frozen)}
            ),
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "num_classes": self.num_classes,
            "resolution": self.resolution,
            "mean": self.mean,
            "std": self.std,
            "class_names": self.class_names,
            "test_logit_adjustment": self.test_logit_adjustment,
            "labeled_counts": self.labeled_counts,
            **(
                {"classifier": keras.saving.serialize_keras_object(self.classifier)}
                if self._given_classifier
                else {}
            ),
        }

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
    ) -> Classifier:
        """Creates the model from the result of `get_config`."""
        deserialize: Callable = keras.saving.deserialize_keras_object
        arguments = {
            key: deserialize(value, custom_objects=custom_objects)
            if isinstance(value, dict)
            else value
            for key, value in config.items()
        }
        with restoring():
            return cls(**arguments)

    # Checks ----------------------------------------------------------------------------------

    def _guard(self, optional: Collection[str] = ()) -> inputs.Guard:
        return inputs.Guard(self.num_classes, optional, self.stored_features)

    def _batch_norms(self) -> list[keras.layers.Layer]:
        return [*batch_norms_of(self.encoder), *batch_norms_of(self.ema_encoder)]

    def _check_replicas(self) -> None:
        """Raises a ValueError where the model cannot be trained on several replicas."""
        if self.network.compiles_parts and any(norm.synchronized for norm in self._batch_norms()):
            raise ValueError(
                "jit_compile=True does not go with synchronized BatchNorm on several replicas: XLA "
                "compiles the network of each replica separately, and its layers cannot exchange "
                "statistics. Make the encoder with synchronized_batch_norm=False "
                "(--nosynchronized_batch_norm), or use jit_compile=False."
            )
        if scales_losses(self.optimizer):
            raise ValueError(
                "An optimizer that scales losses does not go with several replicas, which cannot "
                "skip a step together. Use mixed_bfloat16 instead of mixed_float16."
            )

    def _check_one_per_class(self, name: str, values: tuple | None) -> None:
        if values is not None and len(values) != self.num_classes:
            raise ValueError(
                f"{name} must have one entry for each of the {self.num_classes} classes, not "
                f"{len(values)}."
            )

    def _maybe_symbolic_build(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: all is built, and Keras 3 cannot inspect a batch of many workers."""


def arguments_of(method: str, args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of a call of a `keras.Model` method by name.

    Args:
        method: Name of the method.
        args: Its positional arguments, without the model.
        kwargs: Its keyword arguments.
    """
    signature = inspect.signature(getattr(keras.Model, method))
    given = dict(signature.bind(None, *args, **kwargs).arguments)
    del given["self"]
    return {**given.pop("kwargs", {}), **given}


def _check_classifier(classifier: Any) -> None:
    """Raises a ValueError where something is no layer, or returns no logits."""
    if classifier is None:
        return
    if not isinstance(classifier, keras.layers.Layer):
        raise ValueError(
            f"The classifier is {classifier!r}; it must be a keras.layers.Layer from features to "
            "logits, or the name of one."
        )
    activation = getattr(getattr(classifier, "activation", None), "__name__", "linear")
    if activation != "linear":
        raise ValueError(
            f"The classifier {classifier.name} has the activation {activation}; it must return "
            "logits, without an activation."
        )


def _checked_statistics(
    encoder: keras.Model, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the channel statistics as tuples of floats, or says what is wrong with them."""
    own = None if is_restoring() else normalization_of(encoder)
    if own and mean is None and std is None:
        return own
    if mean is None or std is None:
        raise ValueError(
            "mean and std are required, the statistics of each color channel of the training "
            "images: give mean=data.mean, std=data.std of daso_tf.data.load or from_arrays, or "
            "those that daso_tf.data.channel_statistics(images) returns."
        )
    statistics = checked_channel_statistics(mean, std)
    if own:
        check_normalization(encoder, statistics)
    return statistics
