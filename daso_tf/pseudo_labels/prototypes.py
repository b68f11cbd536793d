"""A balanced memory of labeled features, and the classifier by similarity to their means."""

from __future__ import annotations

import keras
import tensorflow as tf

from daso_tf.platform import replicas


@keras.saving.register_keras_serializable(package="daso_tf")
class PrototypeClassifier(keras.layers.Layer):
    """Classifies by similarity to the mean of the last Q labeled features of every class.

    Head and tail classes have the same room, so the prototypes are as good for a class with ten
    images as for one with a thousand.

    Args:
        queue_size: Q, features kept for each class, at least 1.
        temperature: Divides the cosine similarities before the softmax, above 0.

    Example:

    >>> classifier = PrototypeClassifier(queue_size=2)
    >>> classifier.build([(None, 3), (None, 4)])  # 3 classes, 4 features
    >>> classifier.push(tf.ones((1, 4)), tf.constant([2]))
    >>> classifier.prototypes().numpy().tolist()[2]
    [1.0, 1.0, 1.0, 1.0]

    Reference:
        DASO, CVPR 2022, section 3.3, "Balanced prototype generation".
    """

    def __init__(self, queue_size: int = 256, temperature: float = 0.05, dtype="float32", **kwargs):
        super().__init__(dtype=dtype, **kwargs)
        if queue_size < 1:
            raise ValueError(f"queue_size must be at least 1, not {queue_size}.")
        if not temperature > 0:
            raise ValueError(f"The prototype temperature must be above 0, not {temperature}.")
        self.queue_size = queue_size
        self.temperature = temperature

    def build(self, input_shape):
        """Makes the queues, from the shapes of logits `(batch, K)` and features `(batch, D)`."""
        (_, num_classes), (_, num_features) = input_shape
        self.num_classes = num_classes
        self.features = self.add_weight(
            name="features",
            shape=(num_classes, self.queue_size, num_features),
            initializer="zeros",
            trainable=False,
        )
        # Features ever pushed, for each class: it says where the ring goes on and how full it is.
        self.pushed = self.add_weight(
            name="pushed",
            shape=(num_classes,),
            initializer="zeros",
            trainable=False,
            dtype="int64",
        )
        self.built = True

    def push(self, features: tf.Tensor, labels: tf.Tensor) -> None:
        """Appends each feature to its class's queue; where Q is exceeded the oldest fall out.

        Args:
            features: float `(batch, D)`.
            labels: int `(batch,)`, classes in 0..K-1. A class may come several times (the later
                image is the newer), more than Q times, or not at all.
        """
        labels = replicas.gather(tf.cast(labels, tf.int64))
        features = replicas.gather(tf.cast(features, tf.float32))
        of_class = tf.one_hot(labels, self.num_classes, dtype=tf.int64)
        pushed = tf.convert_to_tensor(self.pushed)
        earlier_in_batch = tf.gather(
            tf.cumsum(of_class, exclusive=True), labels, batch_dims=1, axis=1
        )
        position = (tf.gather(pushed, labels) + earlier_in_batch) % self.queue_size
        # Images that fall on the same place of the ring all write what the last of them writes,
        # since the order in which a scatter serves duplicates is not defined.
        slot = labels * self.queue_size + position
        same_slot = tf.equal(slot[:, None], slot[None, :])
        batch_size = tf.shape(labels)[0]
        last_writer = tf.reduce_max(tf.where(same_slot, tf.range(batch_size)[None, :], -1), axis=1)
        self.features.assign(
            tf.tensor_scatter_nd_update(
                tf.convert_to_tensor(self.features),
                tf.stack([labels, position], axis=1),
                tf.gather(features, last_writer),
            )
        )
        self.pushed.assign(pushed + tf.reduce_sum(of_class, axis=0))

    def prototypes(self) -> tf.Tensor:
        """Returns the mean feature of each class, float32 `(K, D)`; zero for one never seen."""
        filled = tf.clip_by_value(tf.convert_to_tensor(self.pushed), 1, self.queue_size)
        # Places never written hold zeros, so the sum over the whole ring is right.
        return tf.reduce_sum(self.features, axis=1) / tf.cast(filled, tf.float32)[:, None]

    def call(self, features):
        """Classifies by similarity: cosine to each prototype, over the temperature.

        Args:
            features: float `(batch, D)`.

        Returns:
            float32 logits `(batch, K)`; 0 for a class never seen.
        """
        features = tf.math.l2_normalize(tf.cast(features, tf.float32), axis=-1)
        prototypes = tf.math.l2_normalize(self.prototypes(), axis=-1)
        return tf.matmul(features, prototypes, transpose_b=True) / self.temperature

    def get_config(self):
        """Returns the arguments that make this layer again."""
        return {
            **super().get_config(),
            "queue_size": self.queue_size,
            "temperature": self.temperature,
        }
