"""What the averaged network answers about whole sets of pictures, in batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from daso_tf.balance.logit_adjustment import adjusted
from daso_tf.data import ImageFiles, Images, Rows, evaluation_batches
from daso_tf.learners import Learner
from daso_tf.step import known_images
from daso_tf.step.outcome import Outputs


class Answers(NamedTuple):
    """What the averaged network computes for some pictures.

    Attributes:
        positions: int64 `(N,)`, the places of the pictures among all of their part.
        features: float32 `(N, D)`.
        given: float32 `(N, F)`, features that no label has changed: those of a frozen encoder. Of a
            network that was trained as a whole, the same as `features`.
        plain: float32 `(N, K)`, the logits without logit adjustment.
        logits: float32 `(N, K)`, those of the exported model.
    """

    positions: np.ndarray
    features: np.ndarray
    given: np.ndarray
    plain: np.ndarray
    logits: np.ndarray


class Taught(NamedTuple):
    """What some unlabeled pictures are taught in the state of a learner.

    Attributes:
        final: int `(N,)`, the pseudo-labels.
        linear: int `(N,)`, the classes of the linear classifier.
        semantic: int `(N,)`, the classes of the nearest prototypes; -1 where there are none.
        weights: float `(N,)`, how strongly each is taught; None where the learner teaches all of
            them alike.
    """

    final: np.ndarray
    linear: np.ndarray
    semantic: np.ndarray
    weights: np.ndarray | None


class Network:
    """The averaged network of a learner. Asking it changes nothing in the learner.

    Args:
        learner: A learner on one device.
        batch_size: Pictures per batch.
    """

    def __init__(self, learner: Learner, batch_size: int):
        self.learner = learner
        self.batch_size = batch_size
        self._answer = tf.function(self._answered, autograph=False, reduce_retracing=True)
        parts = (learner.pseudo_labeler, learner.threshold, learner.balanced_head)
        layers = [part for part in parts if isinstance(part, keras.layers.Layer)]
        self._memory = [variable for layer in layers for variable in layer.weights]
        self._remembered = [np.array(tf.convert_to_tensor(v)) for v in self._memory]

    def batches(self, images: Images | ImageFiles | Rows) -> Iterator[Answers]:
        """Yields the answers about all pictures in order; those that cannot be read are left out.

        Args:
            images: Pictures of a part, or their rows in a feature bank.
        """
        pixels = images.pictures if isinstance(images, Rows) else images
        start = 0
        for pictures, _ in evaluation_batches(images, self.batch_size):
            features, plain = (tensor.numpy() for tensor in self._answer(pictures))
            given = features
            if isinstance(images, Rows):
                given = pictures[:, 0].numpy().astype(np.float32)
            positions = np.arange(start, start + len(features))
            start += len(features)
            if isinstance(pixels, ImageFiles) and pixels.left_out:
                read = ~np.isin(positions, list(pixels.left_out))
                positions, features, given, plain = (
                    array[read] for array in (positions, features, given, plain)
                )
            if len(positions):
                yield Answers(positions, features, given, plain, self._as_exported(plain))

    def all_of(self, images: Images | ImageFiles | Rows) -> Answers:
        """Returns the answers about all pictures together.

        Args:
            images: Pictures of a part, at least one.
        """
        return Answers(*map(np.concatenate, zip(*self.batches(images), strict=True)))

    def taught(self, answers: Answers) -> Taught | None:
        """Returns what unlabeled pictures are taught; None where there are no pseudo-labels.

        It is computed as in the last step, from the plain pictures by the averaged network, with
        what pseudo-labeler, threshold and balanced head remember after it.

        Args:
            answers: Those about the pictures.
        """
        learner = self.learner
        labeler = learner.pseudo_labeler
        if labeler is None:
            return None
        step = tf.maximum(tf.convert_to_tensor(learner.step) - 1, learner.first_step)
        positions, features = tf.constant(answers.positions), tf.constant(answers.features)
        belongs = None
        if learner.open_set is not None:
            unknown = learner.open_set.is_unknown(learner.open_set(answers.plain, features))
            belongs = tf.where(unknown, 0.0, 1.0)
        logits = tf.cast(learner.ema_classifier(features), tf.float32)
        try:
            teaching = learner.teaching_logits(Outputs(features, logits), step)
            if "blank_image" in labeler.asks_for:
                blank = learner.network.ema_features(learner.blank_image, training=False)
                bias = tf.cast(learner.ema_classifier(blank), tf.float32)
                teaching = labeler.teaching_logits(teaching, bias, step)
            labels = labeler(
                tf.nn.softmax(teaching),
                features,
                step=step,
                positions=positions,
                **known_images.argument(belongs),
            )
            if learner.threshold is None:
                weights = known_images.taught(labeler.image_weights(positions), belongs)
            else:
                labels, selection = learner.selected(labels, logits, None, step, positions, belongs)
                weights = selection.weights
        finally:
            for variable, value in zip(self._memory, self._remembered, strict=True):
                variable.assign(value)
        return Taught(
            labels.final.numpy(),
            tf.argmax(logits, axis=-1).numpy(),
            labels.semantic.numpy(),
            None if weights is None else weights.numpy(),
        )

    def _answered(self, pictures: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        network = self.learner.network
        features = network.ema_features(network.as_input(pictures), training=False)
        return features, self.learner.answering_logits(features)

    def _as_exported(self, plain: np.ndarray) -> np.ndarray:
        counts, strength = self.learner.labeled_counts, self.learner.test_logit_adjustment
        prior = self.learner.answered_log_prior
        logits = plain if not strength or counts is None else adjusted(plain, counts, strength)
        return logits if prior is None else logits + prior.numpy()
