"""Feature queues of equal length for all classes, and a classifier by similarity to their means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from daso_tf.platform import compiled, replicas
from daso_tf.platform.checks import checked_number, checked_whole_number


@keras.saving.register_keras_serializable(package="daso_tf")
class PrototypeClassifier(keras.layers.Layer):
    """Classifies features by their similarity to prototypes.

    The prototype of a class is the mean of its last Q labeled features. Head and tail classes have
    queues of the same length, so the prototypes are balanced.

    Args:
        queue_size: Q, features kept for each class, at least 1; or K numbers, one per class.
        temperature: Divides the cosine similarities, above 0.
        dtype: Keras dtype policy of this layer. By default float32, whatever the global policy is.
        **kwargs: `name` and `trainable`, as for `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> classifier = PrototypeClassifier(queue_size=2)
    >>> classifier.build([(None, 3), (None, 4)])  # 3 classes, 4 features
    >>> classifier.push(tf.ones((1, 4)), tf.constant([2]))
    >>> classifier.prototypes().numpy().tolist()[2]
    [1.0, 1.0, 1.0, 1.0]

    Reference:
        Oh, Kim and Kweon, "DASO", CVPR 2022, section 3.3, "Balanced prototype generation".
    """

    def __init__(
        self,
        queue_size: int | Sequence[int] = 256,
        temperature: float = 0.05,
        dtype: Any = "float32",
        **kwargs: Any,
    ):
        super().__init__(dtype=dtype, **kwargs)
        self.queue_size: int | tuple[int, ...]
        if isinstance(queue_size, Sequence):
            self.queue_size = tuple(
                checked_whole_number("queue_size", size, least=1) for size in queue_size
            )
        else:
            self.queue_size = checked_whole_number("queue_size", queue_size, least=1)
        self.temperature = checked_number("temperature", temperature, above=0)

    def build(self, input_shape: Sequence[Any]) -> None:
        """Creates the queues.

        Args:
            input_shape: The shapes of the logits `(batch, K)` and the features `(batch, D)`.
        """
        (_, num_classes), (_, num_features) = input_shape
        self.num_classes = num_classes
        sizes = self.queue_size
        if isinstance(sizes, int):
            sizes = (sizes,) * num_classes
        if len(sizes) != num_classes:
            raise ValueError(
                f"queue_size must be one number, or one for each of the {num_classes} classes, not "
                f"{len(sizes)} numbers."
            )
        self._sizes = np.array(sizes, np.int64)
        self.features = self.add_weight(
            name="features",
            shape=(num_classes, max(sizes), num_features),
            initializer="zeros",
            trainable=False,
        )
        # How many features each class has ever received. This gives the next place to write in
        # its ring buffer, and how full the buffer is.
        self.pushed = self.add_weight(
            name="pushed",
            shape=(num_classes,),
            initializer="zeros",
            trainable=False,
            dtype="int64",
        )
        self._means = _Means(num_classes, num_features)
        self.built = True

    def push(self, features: tf.Tensor, labels: tf.Tensor) -> None:
        """Appends each feature to the queue of its class. A full queue drops its oldest entries.

        Args:
            features: float `(batch, D)`.
            labels: int `(batch,)`, classes in 0..K-1. A class may occur several times (later images
                count as newer), more than Q times, or not at all.
        """
        labels = replicas.gather(tf.cast(labels, tf.int64))
        features = replicas.gather(tf.cast(features, tf.float32))
        pushed = tf.convert_to_tensor(self.pushed)
        images = tf.range(tf.shape(labels)[0])
        same_class = tf.equal(labels[:, None], labels[None, :])
        earlier = same_class & (images[None, :] < images[:, None])
        earlier_in_batch = tf.reduce_sum(tf.cast(earlier, tf.int64), axis=1)
        position = (tf.gather(pushed, labels) + earlier_in_batch) % tf.gather(self._sizes, labels)
        # A scatter writes duplicates in an undefined order. All images with the same slot therefore
        # write the feature of the last of them.
        same_slot = same_class & tf.equal(position[:, None], position[None, :])
        last_writer = tf.reduce_max(tf.where(same_slot, images[None, :], -1), axis=1)
        replicas.write_rows(
            self.features, tf.stack([labels, position], axis=1), tf.gather(features, last_writer)
        )
        in_batch = tf.math.unsorted_segment_sum(tf.ones_like(labels), labels, self.num_classes)
        self.pushed.assign(pushed + in_batch)

    def prototypes(self) -> tf.Tensor:
        """Returns the mean feature of each class, float32 `(K, D)`; 0 for a class never seen."""
        pushed = tf.convert_to_tensor(self.pushed)
        filled = tf.cast(tf.clip_by_value(pushed, 1, self._sizes), tf.float32)[:, None]
        # Empty places hold zeros, so the sum over a whole queue is right.
        # XLA reads all queues once, whatever uses their means. It would compile a number of changed
        # queues that varies as that of all.
        if compiled.by_xla():
            return tf.reduce_sum(self.features, axis=1) / filled
        # A step changes the queues of few classes, and a restored checkpoint those of all. Only
        # their means are computed: with many classes, to read all queues takes longer than the
        # rest of the method.
        known = self._means
        slot = (tf.maximum(pushed, 1) - 1) % self._sizes
        newest = replicas.read_rows(self.features, slot[:, None], batch_dims=1)[:, 0]
        changed = tf.reduce_any(tf.not_equal(newest, known.newest), axis=1)
        changed = tf.where(changed | tf.not_equal(pushed, known.pushed))
        classes = changed[:, 0]
        total = tf.reduce_sum(replicas.read_rows(self.features, classes), axis=1)
        replicas.write_rows(known.means, changed, total / tf.gather(filled, classes))
        replicas.own_copy(known.pushed).assign(pushed)
        replicas.own_copy(known.newest).assign(newest)
        return tf.convert_to_tensor(known.means)

    def call(self, features: tf.Tensor) -> tf.Tensor:
        """Computes the cosine similarity to each prototype, divided by the temperature.

        Args:
            features: float `(batch, D)`.

        Returns:
            float32 logits `(batch, K)`; 0 for a class never seen.
        """
        features = tf.math.l2_normalize(tf.cast(features, tf.float32), axis=-1)
        prototypes = tf.math.l2_normalize(self.prototypes(), axis=-1)
        return tf.matmul(features, prototypes, transpose_b=True) / self.temperature

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this layer."""
        return {
            **super().get_config(),
            "queue_size": self.queue_size,
            "temperature": self.temperature,
        }


class _Means:
    """The means of the queues when they were last computed, and by what a change is noticed.

    They are not saved, because they follow from the queues. Keras saves the variables that it
    finds in layers, lists and tuples, but not those in an object like this one.

    Args:
        num_classes: K.
        num_features: D.

    Attributes:
        means: float32 `(K, D)`.
        newest: float32 `(K, D)`, the newest feature of each queue.
        pushed: int64 `(K,)`, how many features each class had received.
    """

    def __init__(self, num_classes: int, num_features: int):
        with tf.init_scope():
            # All are as for empty queues.
            self.means = tf.Variable(tf.zeros([num_classes, num_features]), trainable=False)
            self.newest = tf.Variable(tf.zeros([num_classes, num_features]), trainable=False)
            self.pushed = tf.Variable(tf.zeros([num_classes], tf.int64), trainable=False)
