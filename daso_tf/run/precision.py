"""In which precision does this machine train an encoder fastest?

`--mixed_precision=auto` asks this when a run starts. The answer is written into the flag file of
the run, so that the run continues in the same precision.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from daso_tf.data import SemiSupervisedData
from daso_tf.encoders.batch_normalization import batch_norms_of
from daso_tf.platform import cores
from daso_tf.settings import compilation
from daso_tf.settings.build import build_image_encoder, images_of_run
from daso_tf.settings.settings import Settings

PRECISIONS = {"none": "float32", "bfloat16": "bfloat16"}
IMAGES = 64  # of a pass of the trial, at most
PASSES = 4  # in each precision, after the first one
# bfloat16 has 8 bits of precision, so it must save more than the noise of a short trial.
WORTHWHILE = 0.9


def settled(settings: Settings, data: SemiSupervisedData) -> tuple[Settings, list[str]]:
    """Replaces `--mixed_precision=auto` by the precision that trains faster here.

    Args:
        settings: The settings of a run that starts, completed.
        data: The data of the run.

    Returns:
        The settings with a precision, and the lines that say why; no lines where the flag has
        another value.
    """
    if settings.mixed_precision != "auto":
        return settings, []
    if settings.freeze_encoder:
        return _with("none", "the frozen encoder and what learns from it are float32", settings)
    if not cores.computes_bfloat16():
        return _with("none", "this machine does not compute in bfloat16", settings)
    print("--mixed_precision=auto: trying float32 and bfloat16.", flush=True)
    seconds = trial(settings, data)
    reason = (
        f"{min(IMAGES, settings.batch_size)} images take {seconds['bfloat16']:.3g} s in bfloat16"
        f" and {seconds['none']:.3g} s in float32, forward and backward"
    )
    return _with(fastest(seconds), reason, settings)


def fastest(seconds: Mapping[str, float]) -> str:
    """Returns the value of `--mixed_precision` that the seconds of a trial speak for.

    Example:

    >>> fastest({"none": 0.40, "bfloat16": 0.20}), fastest({"none": 0.40, "bfloat16": 0.39})
    ('bfloat16', 'none')
    """
    return "bfloat16" if seconds["bfloat16"] < WORTHWHILE * seconds["none"] else "none"


def trial(settings: Settings, data: SemiSupervisedData) -> dict[str, float]:
    """Measures a pass of some images through the encoder, forward and backward.

    The precisions take turns, so that another program on the machine slows down both.

    Args:
        settings: The settings of the run, completed.
        data: The data of the run.

    Returns:
        The shortest seconds of a pass, by value of `--mixed_precision`.
    """
    shape = min(IMAGES, settings.batch_size), settings.resolution, settings.resolution, 3
    images = tf.constant(np.random.default_rng(0).normal(size=shape), tf.float32)
    passes = {}
    for name in PRECISIONS:
        encoder = build_image_encoder(settings.replace(mixed_precision=name), data)
        passes[name] = _pass_of(encoder, settings)
        passes[name](images)  # traces and compiles
    seconds: dict[str, list[float]] = {name: [] for name in PRECISIONS}
    for _ in range(PASSES):
        for name, run in passes.items():
            start = time.perf_counter()
            run(images).numpy()
            seconds[name].append(time.perf_counter() - start)
    return {name: min(of_passes) for name, of_passes in seconds.items()}


def _pass_of(encoder: keras.Model, settings: Settings) -> tf.types.experimental.GenericFunction:
    """Returns a function of images that computes all gradients of the encoder."""
    compiled = compilation.BY_FLAG.get(settings.jit_compile)
    if compiled is None:
        compiled = compilation.best(encoder, images_of_run(settings))
    for norm in batch_norms_of(encoder):
        norm.jit_compile = compiled == "batch_norm"

    @tf.function(jit_compile=compiled is True, autograph=False)
    def run(images: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            features = encoder(images, training=True)
            loss = tf.reduce_mean(tf.square(tf.cast(features, tf.float32)))
        gradients = tape.gradient(loss, encoder.trainable_variables)
        return tf.add_n([tf.reduce_sum(gradient) for gradient in gradients if gradient is not None])

    return run


def _with(precision: str, reason: str, settings: Settings) -> tuple[Settings, list[str]]:
    line = f"--mixed_precision=auto: {PRECISIONS[precision]}; {reason}"
    return settings.replace(mixed_precision=precision), [line]
