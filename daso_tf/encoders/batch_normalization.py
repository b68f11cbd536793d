"""Batch normalization that updates its running statistics like PyTorch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from daso_tf.platform import replicas
from daso_tf.platform.checks import checked_number
from daso_tf.platform.keras_versions import layers_of


@keras.saving.register_keras_serializable(package="daso_tf")
class BatchNormalization(keras.layers.BatchNormalization):
    """Batch normalization with the running statistics of PyTorch and exact batch statistics.

    It differs from `keras.layers.BatchNormalization` in two ways. First, the running variance is
    updated with the *unbiased* variance of the batch (divided by n - 1), as in PyTorch, in which
    the DASO authors' implementation is written. With small batches this visibly changes the network
    in evaluation. Second, the batch statistics are means over one dimension after the other. The
    fused kernel of TensorFlow computes one float32 sum over all pixels of a batch, with errors of
    up to 4e-5. This is enough to flip activations near zero and to leave the tolerances of a
    recorded run.

    Channels are the last axis.

    Args:
        momentum: Weight of the old running statistics, in [0, 1]. PyTorch calls `1 - momentum` the
            momentum, so 0.1 in PyTorch is 0.9 here.
        epsilon: Added to the variance, at least 0.
        synchronized: Whether the replicas of a distributed step normalize with the statistics of
            the global batch. If not, each replica uses those of its own rows.
        negative_slope: Applies a LeakyReLU with this slope below zero, in [0, 1), to the result.
            0 is ReLU. None applies no activation.
        center: Whether to add a trained offset, beta.
        scale: Whether to multiply by a trained factor, gamma.
        beta_initializer: Initializer of beta.
        gamma_initializer: Initializer of gamma.
        moving_mean_initializer: Initializer of the running mean.
        moving_variance_initializer: Initializer of the running variance.
        beta_regularizer: Regularizer of beta.
        gamma_regularizer: Regularizer of gamma.
        beta_constraint: Constraint on beta.
        gamma_constraint: Constraint on gamma.
        axis: Position of the channels, which must be the last one. It exists because Keras saves
            it.
        **kwargs: `name`, `dtype` and `trainable`, as for `keras.layers.Layer`.

    Attributes:
        jit_compile: Whether XLA compiles the training computation of this layer, including the
            activation, in a step that is not compiled as a whole. False until `compile` of a
            learner sets it.
        precise: Whether means over a batch are sums of float64. False unless it is set; the replay
            of recorded runs does so.

    Call arguments:
        inputs: float `(batch, ..., channels)`, or a list of two such tensors, whose sum is
            normalized. A network with residual branches in which a sum is normalized and also goes
            on itself trains faster with it: the gradients of both are added where they arise.
        training: Whether to normalize with the statistics of the batch and to update the running
            statistics, instead of normalizing with the running statistics.

    Returns:
        A tensor with the shape and dtype of the inputs. For two inputs, a list of this tensor and
        of their sum.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> layer = daso_tf.encoders.BatchNormalization()
    >>> layer(tf.ones((2, 4, 4, 3)), training=True).shape
    TensorShape([2, 4, 4, 3])
    >>> layer = daso_tf.encoders.BatchNormalization()
    >>> normalized, total = layer([tf.ones((2, 3)), tf.ones((2, 3))])
    >>> float(total[0, 0])
    2.0

    Reference:
        Ioffe and Szegedy, "Batch Normalization", ICML 2015, algorithm 1.
    """

    def __init__(
        self,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        synchronized: bool = True,
        negative_slope: float | None = None,
        *,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        moving_mean_initializer: Any = "zeros",
        moving_variance_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        axis: int = -1,
        **kwargs: Any,
    ) -> None:
        if kwargs.pop("renorm", False):
            raise ValueError("renorm must be False: this layer has no batch renormalization.")
        super().__init__(
            axis=axis,
            momentum=checked_number("momentum", momentum, least=0, most=1),
            epsilon=checked_number("epsilon", epsilon, least=0),
            synchronized=synchronized,
            center=center,
            scale=scale,
            beta_initializer=beta_initializer,
            gamma_initializer=gamma_initializer,
            moving_mean_initializer=moving_mean_initializer,
            moving_variance_initializer=moving_variance_initializer,
            beta_regularizer=beta_regularizer,
            gamma_regularizer=gamma_regularizer,
            beta_constraint=beta_constraint,
            gamma_constraint=gamma_constraint,
            **kwargs,
        )
        if negative_slope is not None:
            negative_slope = checked_number("negative_slope", negative_slope, least=0, below=1)
        self.negative_slope = negative_slope
        self.jit_compile = False
        self.precise = False

    def build(self, input_shape: Any) -> None:
        """Creates gamma, beta and the running statistics.

        Args:
            input_shape: The shape of the inputs, or a list of two equal shapes.

        Raises:
            ValueError: If `axis` is not the last axis, or if the inputs are neither one nor two of
                the same shape.
        """
        shapes = _shapes(input_shape)
        if len(shapes) > 2 or any(tuple(shape) != tuple(shapes[0]) for shape in shapes):
            raise ValueError(
                "BatchNormalization takes one input, or two of the same shape, which it adds, not "
                f"inputs of the shapes {', '.join(str(tuple(shape)) for shape in shapes)}."
            )
        input_shape = shapes[0]
        axis = self.axis if isinstance(self.axis, int) else self.axis[0]  # Keras 2 keeps a list
        if axis not in (-1, len(input_shape) - 1):
            raise ValueError(
                f"axis must be the last one, -1 or {len(input_shape) - 1} for inputs of shape "
                f"{tuple(input_shape)}, not {axis}."
            )
        super().build(input_shape)
        if len(shapes) > 1:
            spec = keras.layers.InputSpec(ndim=len(input_shape), axes={-1: input_shape[-1]})
            self.input_spec = [spec] * len(shapes)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the shape of the inputs: two inputs have two outputs."""
        return input_shape

    def call(
        self,
        inputs: tf.Tensor | list[tf.Tensor],
        training: bool = False,
        mask: tf.Tensor | None = None,
    ) -> tf.Tensor | list[tf.Tensor]:
        """Normalizes with the batch statistics in training, and else with the running ones."""
        addends = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        if not (training and self.trainable):  # a frozen layer keeps its statistics
            total = tf.add(*addends) if len(addends) > 1 else addends[0]
            outputs = super().call(total, training=False, mask=mask if len(addends) == 1 else None)
            outputs = activated(outputs, self.negative_slope)
            return outputs if len(addends) == 1 else [outputs, total]
        channels = addends[0].shape[-1]
        # In mixed precision, Keras returns variables in the precision of the layer.
        gamma = tf.cast(self.gamma, tf.float32) if self.scale else tf.ones([channels])
        beta = tf.cast(self.beta, tf.float32) if self.center else tf.zeros([channels])
        of_batch, parts = (replicas.mean, replicas.count()) if self.synchronized else (_own, 1)
        # The activation is free within the passes if XLA compiles them, and a separate kernel else.
        passes, within, after = _PASSES, None, self.negative_slope
        if self.jit_compile:
            passes, within, after = _COMPILED_PASSES, self.negative_slope, None
        if self.precise:
            passes = _PRECISE_PASSES
        outputs, mean, variance, *total = _normalized(
            addends, gamma, beta, self.epsilon, within, of_batch, passes
        )
        count = tf.cast(parts * (tf.size(outputs) // channels), tf.float32)
        for statistic, batch_value in (
            (self.moving_mean, mean),
            (self.moving_variance, variance * count / tf.maximum(count - 1.0, 1.0)),
        ):
            statistic.assign(statistic * self.momentum + batch_value * (1.0 - self.momentum))
        outputs = activated(outputs, after)
        return [outputs, *total] if total else outputs

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        # get_config of Keras 2.15 lacks synchronized.
        ours = {"synchronized": self.synchronized, "negative_slope": self.negative_slope}
        return {**super().get_config(), **ours}


def _normalized(
    addends: list[tf.Tensor],
    gamma: tf.Tensor,
    beta: tf.Tensor,
    epsilon: float,
    negative_slope: float | None,
    of_batch: Callable,
    passes: tuple[Callable, ...],
) -> list[tf.Tensor]:
    """Normalizes a batch by its own statistics, activates it, and returns mean and variance too.

    If the batch is the sum of two addends, the sum is returned as well.

    The gradient is the closed form (Ioffe and Szegedy, 2015, section 3). It stores only the inputs
    and computes the rest again, which takes less memory and three quarters of the time of the
    gradient that TensorFlow derives. No gradient flows through the returned statistics.

    `of_batch` turns means over the rows of this replica into means over the whole batch.
    """
    statistics_of, outputs_of, slopes_of, gradient_of = passes

    @tf.custom_gradient
    def forward(gamma: tf.Tensor, beta: tf.Tensor, *addends: tf.Tensor) -> tuple[Any, Callable]:
        inputs = addends[0] if len(addends) == 1 else tf.add(*addends)
        own_mean, own_variance = statistics_of(inputs)
        mean = of_batch(own_mean)
        variance = of_batch(own_variance + tf.square(own_mean - mean))
        inverse = tf.math.rsqrt(variance + epsilon)
        outputs = outputs_of(inputs, mean, inverse * gamma, beta, negative_slope)

        def backward(upstream: tf.Tensor, *others: Any) -> tuple[tf.Tensor, ...]:
            of_total = others[2] if len(addends) > 1 else None
            kept = inputs, upstream, mean, inverse, gamma, beta, negative_slope
            of_beta, of_gamma = slopes_of(*kept)
            shift, slope = of_batch([of_beta, of_gamma])
            of_inputs = gradient_of(*kept, shift, slope, of_total)
            count = tf.cast(tf.size(inputs) // inputs.shape[-1], tf.float32)
            return count * of_gamma, count * of_beta, *[of_inputs] * len(addends)

        total = [inputs] if len(addends) > 1 else []
        return [outputs, mean, variance, *total], backward

    return forward(gamma, beta, *addends)


# The passes over a batch. Compiled by XLA, a pass reads the batch once. Otherwise, TensorFlow reads
# and writes the batch for every operation.


def _statistics(x: tf.Tensor, mean_of: Callable | None = None) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns mean and variance of each channel."""
    mean_of = mean_of or _mean_of_channels
    x = tf.cast(x, tf.float32)
    mean = mean_of(x)
    return mean, mean_of(tf.square(x - mean))


def _statistics_in_one_pass(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns mean and variance of each channel, and reads the batch once.

    The variance is a difference of two means, which is exact where the values are near zero. So
    the mean of the first image is subtracted before.
    """
    x = tf.cast(x, tf.float32)
    origin = _mean_of_channels(x[:1])
    x -= origin
    mean, square = _means_in_one_pass(x, tf.square(x))
    return origin + mean, tf.maximum(square - tf.square(mean), 0.0)


def _outputs(
    x: tf.Tensor,
    mean: tf.Tensor,
    slope: tf.Tensor,
    beta: tf.Tensor,
    negative_slope: float | None,
) -> tf.Tensor:
    outputs = (tf.cast(x, tf.float32) - mean) * slope + beta
    # In float32: XLA's comparisons of bfloat16 take three times as long as the rest of the pass.
    return tf.cast(activated(outputs, negative_slope), x.dtype)


def _slopes(
    x: tf.Tensor,
    upstream: tf.Tensor,
    mean: tf.Tensor,
    inverse: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    negative_slope: float | None,
    means_of: Callable | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    normalized = (tf.cast(x, tf.float32) - mean) * inverse
    upstream = _before_activation(upstream, normalized * gamma + beta, negative_slope)
    return (means_of or _means_of_channels)(upstream, upstream * normalized)


def _gradient(
    x: tf.Tensor,
    upstream: tf.Tensor,
    mean: tf.Tensor,
    inverse: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    negative_slope: float | None,
    shift: tf.Tensor,
    slope: tf.Tensor,
    of_total: tf.Tensor | None,
) -> tf.Tensor:
    normalized = (tf.cast(x, tf.float32) - mean) * inverse
    upstream = _before_activation(upstream, normalized * gamma + beta, negative_slope)
    gradient = (inverse * gamma) * (upstream - shift - normalized * slope)
    if of_total is not None:
        gradient += tf.cast(of_total, tf.float32)
    return tf.cast(gradient, x.dtype)


_PASSES = (_statistics, _outputs, _slopes, _gradient)


def _means_in_one_pass(one: tf.Tensor, other: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the means of the channels of two arrays, which XLA computes in the same loop.

    A loop for each of them would read the batch and compute both arrays twice. XLA makes one loop
    for one array with both, and it makes fast code where the loop has few rows: the rows of an
    image are split into parts of up to eight.
    """
    rows, *rest = one.shape.as_list()[1:-1] or [None]
    if rows is None or None in rest:
        return _means_of_channels(one, other)
    part = max(length for length in range(1, 9) if rows % length == 0)
    shape = [-1, rows if part == 1 else part, *rest, one.shape[-1]]
    both = tf.stack([tf.reshape(one, shape), tf.reshape(other, shape)], axis=1)
    for axis in (2, 0, *[1] * len(rest)):
        both = tf.reduce_mean(both, axis)
    return both[0], both[1]


# All layers share these functions, so layers with inputs of the same shape compile once.
_COMPILED_PASSES = tuple(
    tf.function(p, jit_compile=True, autograph=False)
    for p in (
        _statistics_in_one_pass,
        _outputs,
        functools.partial(_slopes, means_of=_means_in_one_pass),
        _gradient,
    )
)


def _mean_in_float64(x: tf.Tensor) -> tf.Tensor:
    return tf.cast(_mean_of_channels(tf.cast(x, tf.float64)), tf.float32)


def _means_in_float64(one: tf.Tensor, other: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return _mean_in_float64(one), _mean_in_float64(other)


# The rounding errors of means grow from step to step. These are for comparisons with other
# programs, whose order of the sums is another one.
_PRECISE_PASSES = (
    functools.partial(_statistics, mean_of=_mean_in_float64),
    _outputs,
    functools.partial(_slopes, means_of=_means_in_float64),
    _gradient,
)


def activated(x: tf.Tensor, negative_slope: float | None) -> tf.Tensor:
    """Applies a LeakyReLU with this slope below zero; None applies nothing."""
    if negative_slope is None:
        return x
    return tf.nn.leaky_relu(x, negative_slope) if negative_slope else tf.nn.relu(x)


def _before_activation(
    upstream: tf.Tensor, before: tf.Tensor, negative_slope: float | None
) -> tf.Tensor:
    upstream = tf.cast(upstream, tf.float32)
    if negative_slope is None:
        return upstream
    return tf.where(before > 0, upstream, negative_slope * upstream)


# That of PyTorch and of this library's encoders.
MOMENTUM = 0.9


def batch_norms_of(model: keras.Model) -> Iterator[keras.layers.BatchNormalization]:
    """Yields the BatchNorm layers of a model and of all that it consists of, also those of Keras.

    Example:

    >>> encoder = daso_tf.encoders.wide_resnet(10, 1)
    >>> len(list(batch_norms_of(encoder)))
    7
    """
    for layer in layers_of(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            yield layer


def follow_quickly(encoder: keras.Model) -> None:
    """Lowers the momentum of BatchNorm layers of Keras to 0.9.

    Predictions use the running statistics. With the momentum of `keras.layers.BatchNormalization`
    (0.99) and of some networks in `keras.applications` (0.999), they are for hundreds of steps
    those of the initial weights, and the predictions chance. Layers of this library keep theirs.

    Args:
        encoder: Any model; its layers are changed.

    Example:

    >>> layer = keras.layers.BatchNormalization()
    >>> follow_quickly(keras.Sequential([keras.Input((8, 8, 3)), layer]))
    >>> layer.momentum
    0.9
    """
    for layer in batch_norms_of(encoder):
        if not isinstance(layer, BatchNormalization):
            layer.momentum = min(layer.momentum, MOMENTUM)


def _mean_of_channels(x: tf.Tensor) -> tf.Tensor:
    """Returns the mean of each channel, over one dimension after the other.

    This keeps the sums short, which makes them exact. It starts with dimension 1 because the rows
    of an image are contiguous in memory.
    """
    for axis in [1, *[0] * (len(x.shape) - 2)] if len(x.shape) > 2 else [0]:
        x = tf.reduce_mean(x, axis=axis)
    return x


def _means_of_channels(one: tf.Tensor, other: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return _mean_of_channels(one), _mean_of_channels(other)


def _shapes(shape: Any) -> list[Any]:
    """Returns a list of shapes from one shape or several."""
    several = isinstance(shape, (list, tuple)) and isinstance(
        shape[0], (list, tuple, tf.TensorShape)
    )
    return list(shape) if several else [shape]


def _own(means: Any) -> Any:
    return means
