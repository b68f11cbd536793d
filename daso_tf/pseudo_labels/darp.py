"""DARP: pseudo-labels of all unlabeled images, refined to have the classes' known shares."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import keras
import numpy as np
import tensorflow as tf
from scipy.optimize import root_scalar
from scipy.special import logsumexp, softmax

from daso_tf.platform import replicas
from daso_tf.pseudo_labels.base import (
    ONE_CLASSIFIER,
    PseudoLabeler,
    PseudoLabels,
    from_target,
)

_TINY = 1e-6  # keeps classes without images, and images without a class, from dividing by zero


@keras.saving.register_keras_serializable(package="daso_tf")
class DARPPseudoLabeler(PseudoLabeler):
    """Pseudo-labels whose shares of the classes are those of the unlabeled images.

    The latest prediction for every unlabeled image is remembered. From `start_step` on they are
    all refined together every few steps, on the host, and images are taught what was made of them
    the last time.

    Args:
        class_distribution: K numbers of at least 0, in any scale: the unlabeled images of each
            class, or an estimate (`daso_tf.data.estimate_distribution`).
        num_images: How many unlabeled images there are, at least 1.
        start_step: Steps before pseudo-labels are refined. In DASO's comparison they are the first
            40 % of the run.
        period: Steps between two refinements, at least 1.
        alpha: As for `refine`.
        iterations: As for `refine`.

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
            **ONE_CLASSIFIER,
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
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.class_distribution = tuple(float(share) for share in class_distribution)
        if len(self.class_distribution) < 2 or not (
            min(self.class_distribution) >= 0 and 0 < sum(self.class_distribution) < np.inf
        ):
            raise ValueError(
                "class_distribution must be one number of at least 0 for each of two classes or "
                f"more, not all of them 0, not {list(class_distribution)}."
            )
        if not alpha > 0:
            raise ValueError(f"alpha must be above 0, not {alpha}.")
        for name, value, least in (
            ("num_images", num_images, 1),
            ("start_step", start_step, 0),
            ("period", period, 1),
            ("iterations", iterations, 1),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, not {value}.")
        self.num_images = int(num_images)
        self.start_step = int(start_step)
        self.period = int(period)
        self.alpha = float(alpha)
        self.iterations = int(iterations)
        self.supports_jit = False  # so that Keras's jit_compile="auto" knows

    def build(self, input_shape):
        """Makes the memory, from the shapes of logits `(batch, K)` and features `(batch, D)`."""
        num_classes = len(self.class_distribution)
        if input_shape[0][-1] != num_classes:
            raise ValueError(
                f"class_distribution has {num_classes} classes, the predictions "
                f"{input_shape[0][-1]}."
            )
        uniform = keras.initializers.Constant(1.0 / num_classes)
        for name in ("predictions", "refined"):
            shape = (self.num_images, num_classes)
            weight = self.add_weight(name=name, shape=shape, initializer=uniform, trainable=False)
            setattr(self, name, weight)
        self.built = True

    def call(self, linear_target, features, step, positions=None) -> PseudoLabels:
        """Makes the pseudo-labels; see `PseudoLabeler.call`."""
        if positions is None:
            raise ValueError(
                "DARP has to know which unlabeled images these are: give batches with their "
                "positions, daso_tf.data.training_batches(..., with_positions=True)."
            )
        linear_target = tf.stop_gradient(tf.cast(linear_target, tf.float32))
        # An image that comes twice writes what its first view is taken for, since the order in
        # which a scatter serves duplicates is not defined.
        of_batch, predicted = replicas.gather(positions), replicas.gather(linear_target)
        first = tf.argmax(tf.equal(of_batch[:, None], of_batch[None, :]), axis=1)
        predictions = tf.tensor_scatter_nd_update(
            tf.convert_to_tensor(self.predictions), of_batch[:, None], tf.gather(predicted, first)
        )
        self.predictions.assign(predictions)

        steps_since = tf.cast(step, tf.int64) - self.start_step
        refined = tf.cond(
            (steps_since >= 0) & tf.equal(steps_since % self.period, 0),
            lambda: self._refine(predictions),
            lambda: tf.convert_to_tensor(self.refined),
        )
        self.refined.assign(refined)
        target = tf.where(steps_since >= 0, tf.gather(refined, positions), linear_target)
        linear = tf.argmax(linear_target, axis=-1)
        return from_target(target, linear=linear, semantic=-tf.ones_like(linear))

    def get_config(self):
        """Returns the arguments that make this layer again."""
        return {
            **super().get_config(),
            "class_distribution": list(self.class_distribution),
            "num_images": self.num_images,
            "start_step": self.start_step,
            "period": self.period,
            "alpha": self.alpha,
            "iterations": self.iterations,
        }

    def _refine(self, predictions: tf.Tensor) -> tf.Tensor:
        def on_host(predictions):
            refined = refine(predictions, self.class_distribution, self.alpha, self.iterations)
            return refined.astype(np.float32)

        refined = tf.numpy_function(on_host, [predictions], tf.float32, stateful=False)
        return tf.ensure_shape(refined, predictions.shape)


def refine(
    predictions: np.ndarray,
    class_distribution: Sequence[float],
    alpha: float = 2.0,
    iterations: int = 10,
) -> np.ndarray:
    """Moves predictions as little as it takes to have given shares of the classes.

    First only the `alpha * M_k` images that are most likely of class k keep it, M_k being the
    images that the class has. Then the divergence (Kullback-Leibler) from these predictions, each
    image weighted by the inverse of its entropy, is minimised such that an image's probabilities
    sum to 1 and those of class k to M_k: sure predictions stay, unsure ones move.

    Args:
        predictions: float `(N, K)`, rows sum to 1.
        class_distribution: K numbers of at least 0, in any scale; M is it, scaled to sum to N.
        alpha: How many times its images may be taken for a class, above 0.
        iterations: Rounds of meeting the rows' sums and the columns' sums by turns.

    Returns:
        float64 `(N, K)`; rows sum to 1, columns to M as nearly as the rounds have got.

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
    predictions = _without_noise(predictions, images, alpha)

    # With w_n = 1 / entropy the optimum is p_nk / e * x_n * exp(-nu_k / w_n): x meets the rows'
    # sums and nu the columns', one given the other. Everything is kept as its logarithm, a row a
    # class.
    log_p = np.log(np.ascontiguousarray(predictions.T)) - 1.0
    entropy = -np.sum(predictions * np.log(predictions), axis=1)
    nu = np.zeros(len(images))
    for _ in range(iterations):
        log_x = -logsumexp(log_p - np.outer(nu, entropy), axis=0)
        nu = _meet_columns(log_p + log_x, entropy, np.log(images), nu)
    return softmax(log_p - np.outer(nu, entropy), axis=0).T


def _without_noise(predictions: np.ndarray, images: np.ndarray, alpha: float) -> np.ndarray:
    """Leaves class k to the `alpha * M_k` images most likely of it, scaled to sum to M_k."""
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

    The logarithm of the sum is convex and falls with nu, so that Newton's method converges from
    wherever it starts; on the sum itself it need not.
    """

    def excess_and_slope(nu, logs, log_images):
        terms = logs - entropy * nu
        largest = terms.max()
        terms = np.exp(terms - largest)
        total = terms.sum()
        # Not terms @ entropy, for which NumPy would start threads thousands of times.
        return largest + np.log(total) - log_images, -np.sum(terms * entropy) / total

    return np.array(
        [
            root_scalar(
                excess_and_slope,
                args=(logs[k], log_images[k]),
                x0=nu[k],
                fprime=True,
                method="newton",
                xtol=1e-6,
                rtol=1e-6,
            ).root
            for k in range(len(nu))
        ]
    )
