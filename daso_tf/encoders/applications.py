"""The networks of `keras.applications` as encoders."""

from __future__ import annotations

import sys

import keras

from daso_tf.encoders.precision import dtype_policy


@keras.saving.register_keras_serializable(package="daso_tf")
class ApplicationsInput(keras.layers.Layer):
    """Turns normalised images into what a network of `keras.applications` was made for.

    Those networks differ: some take 0..255, some -1..1, some subtract means themselves. Each comes
    with a function that knows; this layer undoes our normalisation and calls it.

    Args:
        application: Name in `keras.applications`, such as `"MobileNetV3Small"`.
        mean: Mean of each colour channel that the images were normalised with, in [0, 1].
        std: Standard deviation of each colour channel that they were normalised with.
    """

    def __init__(self, application: str, mean, std, dtype="float32", **kwargs):
        super().__init__(dtype=dtype, **kwargs)
        self.application = application
        self.mean = tuple(mean)
        self.std = tuple(std)

    def call(self, images):
        """Maps normalised images to the network's own input."""
        module = sys.modules[getattr(keras.applications, self.application).__module__]
        return module.preprocess_input((images * self.std + self.mean) * 255.0)

    def get_config(self):
        """Returns the arguments that make this layer again."""
        return {
            **super().get_config(),
            "application": self.application,
            "mean": self.mean,
            "std": self.std,
        }


def application(name: str, resolution: int, mean, std, dtype: str | None = None) -> keras.Model:
    """Builds a network of `keras.applications` as an encoder, with random weights.

    Args:
        name: Name in `keras.applications`, such as `"MobileNetV3Small"`.
        resolution: Side of the images in pixels; the network decides which sides it can take.
        mean: Mean of each colour channel that the images are normalised with, in [0, 1].
        std: Standard deviation of each colour channel that they are normalised with.
        dtype: Keras dtype policy of its layers, such as `mixed_bfloat16`; by default the one that
            is in force. Its weights are float32 in any case.

    Returns:
        A `keras.Model` from normalised images `(batch, resolution, resolution, 3)` to features
        `(batch, D)`, D as the network has it, by global average pooling.

    Raises:
        ValueError: If there is no network of that name.

    Example:

    >>> encoder = application("MobileNetV3Small", 32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    >>> encoder.output_shape
    (None, 576)
    """
    builder = getattr(keras.applications, name, None)
    if not callable(builder):
        known = sorted(key for key in vars(keras.applications) if key[0].isupper())
        raise ValueError(f"keras.applications has no network {name!r}; it has {', '.join(known)}.")
    with dtype_policy(dtype):
        images = keras.Input((resolution, resolution, 3), name="images")
        backbone = builder(
            include_top=False,
            weights=None,
            input_shape=(resolution, resolution, 3),
            pooling="avg",
        )
        features = backbone(ApplicationsInput(name, mean, std, name="application_input")(images))
        return keras.Model(images, features, name=name)
