"""DARP: refines the pseudo-labels of all unlabeled images to a given class distribution."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from scipy.special import logsumexp, softmax

from daso_tf.platform import replicas
from daso_tf.platform.checks import checked_distribution, checked_number, checked_whole_number
from daso_tf.pseudo_labels.pseudo_labeler import (
    ALL_IMAGES,
    TWO_CLASSIFIERS,
    PseudoLabeler,
    PseudoLabels,
    add_distribution,
    checked_num_classes,
)

_TINY = 1e-6  # avoids a division by zero for classes without images and images without a class


@keras.saving.register_keras_serializable(package="daso_tf")
class DARPPseudoLabeler(PseudoLabeler):
    """Refines pseudo-labels to the class distribution of the unlabeled images (DARP).

    The layer remembers the latest prediction for every unlabeled image. From `start_step` on, it
    refines all of them together every `period` steps, on the host. Between two refinements,
    images are taught the result of the last one.

    Args:
        class_distribution: K numbers of at least 0, in any scale: the unlabeled images of each
            class, or an estimate of them (`daso_tf.data.estimate_distribution`).
        num_images: Number of unlabeled images, at least 1.
        start_step: Steps before pseudo-labels are refined, at least 0. DASO's comparison refines
            them after the first 40 % of the run.
        period: Steps between two refinements, at least 1.
        alpha: How many times its number of images a class may keep, above 0; see `refine`.
        iterations: Rounds of each refinement, at least 1; see `refine`.
        estimated: Whether `class_distribution` is only the first one, which estimates during
            training replace (`set_class_distribution`).
        **kwargs: `name`, `dtype` and `trainable`, as for `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> labeler = DARPPseudoLabeler([1, 1], num_images=2, start_step=0)
    >>> labeler.build([(None, 2), (None, 4)])  # 2 classes, 4 features
    >>> predictions = tf.constant([[0.9, 0.1], [0.6, 0.4]])
    >>> labels = labeler(predictions, tf.zeros((2, 4)), step=0, positions=tf.constant([0, 1]))
    >>> labels.linear.numpy().tolist(), labels.final.numpy().tolist()
    ([0, 0], [0, 1])

    Reference:
        Kim et al., "Distribution Aligning Refinery of Pseudo-label for Imbalanced Semi-supervised
        Learning", NeurIPS 2020, section 3.
    """

    asks_for = frozenset({"positions"})
    refuses = MappingProxyType(
        {
            "xla": "DARP refines pseudo-labels on the host, which XLA cannot compile",
            **TWO_CLASSIFIERS,
            **ALL_IMAGES,
        }
    )

    def __init__(
        self,
        class_distribution: Sequence[float],
        num_images: int,
        start_step: int = 100_000,
        period: int = 10,
        alpha: float = 2.0,
        iterations: int = 10,
        estimated: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.class_distribution = checked_distribution("class_distribution", class_distribution)
        self.num_images = checked_whole_number("num_images", num_images, least=1)
        self.start_step = checked_whole_number("start_step", start_step, least=0)
        self.period = checked_whole_number("period", period, least=1)
        self.alpha = checked_number("alpha", alpha, above=0)
        self.iterations = checked_whole_number("iterations", iterations, least=1)
        self.estimated = bool(estimated)
        self.supports_jit = False  # tells Keras for jit_compile="auto"

    def build(self, input_shape: Sequence[Any]) -> None:
        """Creates the memory of predictions; see `PseudoLabeler`."""
        (_, num_classes), _ = input_shape
        checked_num_classes("class_distribution", self.class_distribution, num_classes)
        uniform = keras.initializers.Constant(1.0 / num_classes)
        shape = (self.num_images, num_classes)
        self.predictions, self.refined = (
            self.add_weight(name=name, shape=shape, initializer=uniform, trainable=False)
            for name in ("predictions", "refined")
        )
        if self.estimated:
            self.estimated_distribution = add_distribution(self, self.class_distribution)
        self.built = True

    def set_class_distribution(self, shares: np.ndarray) -> None:
        """Takes an estimate, if it is `estimated`; see `PseudoLabeler`."""
        if self.estimated:
            self.estimated_distribution.assign(shares)

    def image_memories(self) -> list[tf.Variable]:
        """Returns the variables with one entry per unlabeled image; see `PseudoLabeler`."""
        return [self.predictions, self.refined]

    def call(
        self,
        linear_target: tf.Tensor,
        features: tf.Tensor,
        step: tf.Tensor,
        positions: tf.Tensor | None = None,
    ) -> PseudoLabels:
        """Makes the pseudo-labels; see `PseudoLabeler.call`.

        Raises:
            ValueError: If `positions` is None.
        """
        if positions is None:
            raise ValueError(
                "DARP needs the positions of the unlabeled images of each batch. Create the "
                "batches by daso_tf.data.training_batches(..., with_positions=True)."
            )
        linear_target = tf.stop_gradient(tf.cast(linear_target, tf.float32))
        places, predicted = replicas.gather(positions), replicas.gather(linear_target)
        # A scatter writes duplicates in an undefined order. An image that occurs twice in the batch
        # therefore writes the prediction for its first view twice.
        first = tf.argmax(tf.equal(places[:, None], places[None, :]), axis=1)
        replicas.write_rows(self.predictions, places[:, None], tf.gather(predicted, first))

        steps_since = tf.cast(step, tf.int64) - self.start_step
        refined = tf.cond(
            (steps_since >= 0) & tf.equal(steps_since % self.period, 0),
            lambda: self._refine(tf.convert_to_tensor(self.predictions)),
            lambda: tf.convert_to_tensor(self.refined),
        )
        self.refined.assign(refined)
        target = tf.where(steps_since >= 0, tf.gather(refined, positions), linear_target)
        return PseudoLabels.from_target(target, linear=tf.argmax(linear_target, axis=-1))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this layer."""
        return {
            **super().get_config(),
            "class_distribution": list(self.class_distribution),
            "num_images": self.num_images,
            "start_step": self.start_step,
            "period": self.period,
            "alpha": self.alpha,
            "iterations": self.iterations,
            "estimated": self.estimated,
        }

    def _refine(self, predictions: tf.Tensor) -> tf.Tensor:
        def on_host(predictions: np.ndarray, shares: np.ndarray) -> np.ndarray:
            return refine(predictions, shares, self.alpha, self.iterations).astype(np.float32)

        shares = tf.constant(self.class_distribution, tf.float64)
        if self.estimated:
            shares = tf.convert_to_tensor(self.estimated_distribution)
        refined = tf.numpy_function(on_host, [predictions, shares], tf.float32, stateful=False)
        return tf.ensure_shape(refined, predictions.shape)


def refine(
    predictions: np.ndarray,
    class_distribution: Sequence[float] | np.ndarray,
    alpha: float = 2.0,
    iterations: int = 10,
) -> np.ndarray:
    """Moves predictions to a given class distribution and changes them as little as possible.

    Let M_k be the number of images of class k by the given distribution. First, only the
    `alpha * M_k` images with the highest probability of class k keep this probability. Then the
    Kullback-Leibler divergence from these predictions is minimized, weighted for each image by the
    inverse of its entropy. The constraints are that each row sums to 1 and column k to M_k. Because
    of the weights, confident predictions stay and uncertain ones move.

    Args:
        predictions: float `(N, K)`, each row sums to 1.
        class_distribution: K numbers of at least 0, in any scale.
        alpha: How many times its number of images a class may keep, above 0.
        iterations: Rounds of satisfying the constraints on rows and columns in turn, at least 1.

    Returns:
        float64 `(N, K)`. Rows sum to 1; columns sum to M_k up to the error that the last round
        leaves.

    Example:

    >>> refined = refine(np.array([[0.9, 0.1], [0.6, 0.4]]), [1, 1])
    >>> refined.argmax(axis=1).tolist()
    [0, 1]

    Reference:
        Kim et al., "DARP", NeurIPS 2020, section 3 and algorithm 1.
    """
    predictions = np.asarray(predictions, np.float64)
    images = np.asarray(class_distribution, np.float64)
    images = np.maximum(images * len(predictions) / images.sum(), _TINY)
    predictions = without_noise(predictions, images, alpha)

    # With w_n = 1 / entropy, the optimum is p_nk / e * x_n * exp(-nu_k / w_n). Given nu, the row
    # constraints determine x; given x, the column constraints determine nu. All values are kept as
    # logarithms, with one row per class.
    log_p = np.log(np.ascontiguousarray(predictions.T)) - 1.0
    # The authors add the same number within the logarithm. It matters for confident predictions,
    # whose entropy is hardly larger.
    entropy = -np.sum(predictions * np.log(predictions + _TINY), axis=1)
    nu = np.zeros(len(images))
    for _ in range(iterations):
        log_x = -logsumexp(log_p - np.outer(nu, entropy), axis=0)
        nu = _meet_columns(log_p + log_x, entropy, np.log(images), nu)
    return softmax(log_p - np.outer(nu, entropy), axis=0).T


def without_noise(predictions: np.ndarray, images: np.ndarray, alpha: float = 2.0) -> np.ndarray:
    """Keeps class k for its `alpha * M_k` most likely images, scaled to sum to M_k.

    Args:
        predictions: float `(N, K)`, each row sums to 1.
        images: M, K numbers above 0, the images of each class; they sum to N.
        alpha: How many times its number of images a class may keep, above 0.

    Returns:
        float64 `(N, K)`; each row sums to 1.

    Reference:
        Kim et al., "DARP", NeurIPS 2020, section 3, "Removing noisy entries".
    """
    kept = np.full(predictions.shape, _TINY)
    for k, count in enumerate(images):
        count = min(int(alpha * count), len(predictions))
        if count:
            most_likely = np.argpartition(-predictions[:, k], count - 1)[:count]
            mass = predictions[most_likely, k]
            kept[most_likely, k] += mass * (images[k] + _TINY) / (mass.sum() + _TINY)
    return kept / kept.sum(axis=1, keepdims=True)


def _meet_columns(
    logs: np.ndarray, entropy: np.ndarray, log_images: np.ndarray, nu: np.ndarray
) -> np.ndarray:
    """Solves `sum_n exp(logs_kn - entropy_n * nu_k) = images_k` for every nu_k.

    The equation is solved in logarithms: the logarithm of the sum is convex and decreases with nu,
    so Newton's method converges from any start. On the sum itself it may diverge. It stops after a
    step below 0.1, as its error is then far smaller; the authors stop early, too.
    """
    from scipy.optimize import root_scalar

    def excess_and_slope(
        nu: float, logs: np.ndarray, log_images: float
    ) -> tuple[np.ndarray, np.ndarray]:
        terms = logs - entropy * nu
        largest = terms.max()
        terms = np.exp(terms - largest)
        total = terms.sum()
        # terms @ entropy would start NumPy's threads thousands of times.
        return largest + np.log(total) - log_images, -np.sum(terms * entropy) / total

    return np.array(
        [
            root_scalar(
                excess_and_slope,
                args=(logs[k], log_images[k]),
                x0=nu[k],
                fprime=True,
                method="newton",
                xtol=0.1,
                rtol=1e-12,
            ).root
            for k in range(len(nu))
        ]
    )
