"""Base classes of the thresholds that remember the latest pseudo-label of each unlabeled image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf

from daso_tf.platform import replicas
from daso_tf.platform.checks import checked_number, checked_whole_number
from daso_tf.thresholds.threshold import Threshold


class RememberingThreshold(Threshold):
    """Remembers the latest pseudo-label of every unlabeled image.

    Args:
        num_images: Number of unlabeled images, at least 1.
        confidence: The least confidence of a pseudo-label that is taught, in [0, 1]. Subclasses
            may lower it for some classes.
        **kwargs: `name`, `dtype` and `trainable`, as for `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    asks_for = frozenset({"positions"})

    def __init__(self, num_images: int, confidence: float = 0.95, **kwargs: Any):
        super().__init__(**kwargs)
        self.num_images = checked_whole_number("num_images", num_images, least=1)
        self.confidence = checked_number("confidence", confidence, least=0, most=1)

    def build(self, input_shape: Sequence[Any]) -> None:
        """Creates the memory; see `Threshold`."""
        self.num_classes = input_shape[-1]
        # K marks an image without a pseudo-label.
        self.labels = self.add_weight(
            name="labels",
            shape=(self.num_images,),
            initializer=keras.initializers.Constant(self.num_classes),
            trainable=False,
            dtype="int32",
        )
        self.built = True

    def image_memories(self) -> list[tf.Variable]:
        """Returns the variables with one entry per unlabeled image; see `Threshold`."""
        return [self.labels]

    def counts(self) -> tf.Tensor:
        """Counts the remembered pseudo-labels.

        Returns:
            int32 `(K + 1,)`: the images of each class, then the images without a pseudo-label.
        """
        # Not tf.math.bincount: its size depends on the labels, and XLA would compile every step.
        return tf.raw_ops.DenseBincount(
            input=tf.convert_to_tensor(self.labels),
            size=self.num_classes + 1,
            weights=tf.zeros([0], tf.int32),  # each label counts once
        )

    def remember(
        self,
        memory: tf.Variable,
        positions: tf.Tensor,
        values: tf.Tensor,
        written: tf.Tensor | None = None,
    ) -> None:
        """Overwrites the entries of the batch's images in a memory, for all replicas together.

        Args:
            memory: A variable with one entry per unlabeled image.
            positions: int `(mu * batch,)`, the positions of the batch's images in it.
            values: `(mu * batch,)`, the new entries.
            written: bool `(mu * batch,)`, which of them are written; None for all.
        """
        if written is not None:
            positions = tf.where(written, positions, -1)
        positions, values = replicas.gather(positions), replicas.gather(values)
        if written is not None:
            rows = tf.where(positions >= 0)[:, 0]
            positions, values = tf.gather(positions, rows), tf.gather(values, rows)
        replicas.write_rows(memory, positions[:, None], values)

    def checked_positions(self, positions: tf.Tensor | None) -> tf.Tensor:
        """Returns the positions of a batch.

        Raises:
            ValueError: If there are none.
        """
        if positions is None:
            raise ValueError(
                f"{type(self).__name__} needs the positions of the unlabeled images of each batch. "
                "Create the batches by daso_tf.data.training_batches(..., with_positions=True)."
            )
        return positions

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this layer."""
        return {
            **super().get_config(),
            "num_images": self.num_images,
            "confidence": self.confidence,
        }


class EpochThreshold(RememberingThreshold):
    """Has one value for each class, computed from the remembered pseudo-labels once per epoch.

    Subclasses define `new_values`.

    Args:
        num_images: Number of unlabeled images, at least 1.
        confidence: The least confidence of a pseudo-label that is taught, in [0, 1].
        epoch_steps: Steps of an epoch, at least 1.
        **kwargs: `name`, `dtype` and `trainable`, as for `keras.layers.Layer`.

    Attributes:
        first_epoch: The epoch, counted from 0, at whose start the values are computed for the first
            time.
        first_value: The value of every class before.

    Raises:
        ValueError: If an argument is outside its range.
    """

    asks_for = frozenset({"positions", "step"})
    first_epoch: ClassVar[int] = 1

    def __init__(
        self, num_images: int, confidence: float = 0.95, epoch_steps: int = 500, **kwargs: Any
    ):
        super().__init__(num_images, confidence, **kwargs)
        self.epoch_steps = checked_whole_number("epoch_steps", epoch_steps, least=1)

    @property
    def first_value(self) -> float:
        """The value of every class until values are computed."""
        return 1.0

    def build(self, input_shape: Sequence[Any]) -> None:
        """Creates the memory and the values; see `Threshold`."""
        super().build(input_shape)
        self.class_values = self.add_weight(
            name="class_values",
            shape=(self.num_classes,),
            initializer=keras.initializers.Constant(self.first_value),
            trainable=False,
        )
        # The epoch of the last call, to notice the start of the next one. A step is not enough:
        # each microbatch is a call with the same step.
        self.epoch = self.add_weight(
            name="epoch", shape=(), initializer="zeros", trainable=False, dtype="int64"
        )

    def new_values(self, counts: tf.Tensor) -> tf.Tensor:
        """Computes the values of an epoch that begins from what is remembered.

        Args:
            counts: int32 `(K,)`, the remembered pseudo-labels of each class.

        Returns:
            float32 `(K,)`.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `new_values`.")

    def values_at(self, step: tf.Tensor | None) -> tf.Tensor:
        """Returns the values of a step, float32 `(K,)`; computes them where an epoch begins.

        Args:
            step: int scalar, as for `Threshold.call`.

        Raises:
            ValueError: If there is no step.
        """
        if step is None:
            raise ValueError(
                f"{type(self).__name__} changes once per epoch: give step=, the number of steps "
                "done before this one."
            )
        epoch = tf.cast(step, tf.int64) // self.epoch_steps
        last_epoch = tf.convert_to_tensor(self.epoch)
        values = tf.cond(
            (epoch > last_epoch) & (epoch >= self.first_epoch),
            lambda: self.new_values(self.counts()[:-1]),
            lambda: tf.convert_to_tensor(self.class_values),
        )
        self.class_values.assign(values)
        self.epoch.assign(tf.maximum(epoch, last_epoch))
        return values

    def load_own_variables(self, store: Any) -> None:
        """Loads the variables of a saved layer.

        Those of version 0.1 have no `class_values` and no `epoch`. They then have their initial
        values, so the next step computes `class_values` from the remembered pseudo-labels.
        """
        new = {id(self.class_values), id(self.epoch)}
        remembered = [variable for variable in self.weights if id(variable) not in new]
        if len(store.keys()) != len(remembered):
            super().load_own_variables(store)
            return
        for index, variable in enumerate(remembered):
            variable.assign(store[str(index)])
        self.class_values.assign(tf.fill([self.num_classes], self.first_value))
        self.epoch.assign(0)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this layer."""
        return {**super().get_config(), "epoch_steps": self.epoch_steps}
