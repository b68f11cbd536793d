"""Image backbones of KerasHub, pretrained or from a local folder, as encoders."""

from __future__ import annotations

import re
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from daso_tf.encoders.normalized_input import NormalizedInput
from daso_tf.encoders.precision import dtype_policy
from daso_tf.platform.extras import import_extra
from daso_tf.platform.keras_versions import KERAS_3

# Transformers whose first token stands for the whole image. Others say so in `use_class_token`.
_WITH_CLASS_TOKEN = ("DINOV2Backbone", "DINOV3Backbone", "DeiTBackbone")
_USUAL_RESOLUTION = 224


def hub_encoder(
    preset: str,
    resolution: int | None = None,
    pretrained: bool = True,
    dtype: str | None = None,
) -> keras.Model:
    """Builds an image backbone of KerasHub as an encoder. It needs Keras 3.

    Args:
        preset: The name of a preset, such as `"dinov2_small"`, an address such as `"hf://..."`, or
            the path of a folder that `save_to_preset` wrote.
        resolution: Height and width of the images in pixels. By default `hub_resolution(preset)`.
            Some transformers allow no other.
        pretrained: Whether to load the weights of the preset; otherwise they are random.
        dtype: Keras dtype policy of the layers, such as `"mixed_bfloat16"`. By default that of the
            preset.

    Returns:
        A `keras.Model` from images with values 0 to 1, `(batch, resolution, resolution, 3)`, to
        features `(batch, D)`: the class token of a transformer that has one, else the mean over
        positions. Scale and offset are those of the image converter in the preset.

    Raises:
        ValueError: If there is no such preset, it is not one for images, or the resolution does not
            fit. If KerasHub is missing, it is an `ImportError`, too.

    Example:

    >>> encoder = daso_tf.encoders.hub_encoder("dinov2_small", 224)  # doctest: +SKIP
    """
    hub = check_hub(preset)
    converter = _converter(hub, preset)
    side = resolution or hub_resolution(preset)
    changes: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
    try:
        backbone = hub.models.Backbone.from_preset(preset, load_weights=pretrained, **changes)
        if _side_of(backbone) not in (None, side):
            changes["image_shape"] = (side, side, 3)
            backbone = hub.models.Backbone.from_preset(preset, load_weights=pretrained, **changes)
    except Exception as error:  # KerasHub raises many kinds, depending on where the preset is
        raise _unusable(preset, error) from error
    with dtype_policy(dtype):
        images = keras.Input((side, side, 3), name="images")
        x = NormalizedInput((0.0,) * 3, (1.0,) * 3, name="normalized_input")(images)
        scale, offset = (
            _per_channel(converter, "scale", 1.0),
            _per_channel(converter, "offset", 0.0),
        )
        x = keras.layers.Rescaling((255.0 * scale).tolist(), offset.tolist(), name="rescaling")(x)
        features = _features(backbone, x, preset)
        name = re.sub(r"\W+", "_", preset.rstrip("/").rsplit("/", 1)[-1])
        return keras.Model(images, features, name=f"keras_hub_{name}")


def hub_resolution(preset: str) -> int:
    """Returns the side in pixels of the images that a preset of KerasHub was made for.

    Args:
        preset: As for `hub_encoder`.

    Raises:
        ValueError: As for `hub_encoder`.
    """
    hub = check_hub(preset)
    size = getattr(_converter(hub, preset), "image_size", None)
    if size and size[0]:
        return int(size[0])
    try:
        backbone = hub.models.Backbone.from_preset(preset, load_weights=False)
    except Exception as error:
        raise _unusable(preset, error) from error
    return _side_of(backbone) or _USUAL_RESOLUTION


def check_hub(preset: str) -> Any:
    """Returns the module `keras_hub`.

    Raises:
        ValueError: If it is missing or does not work with this version of Keras.
    """
    flag = f"--encoder=keras_hub:{preset}"
    if not KERAS_3:
        raise ValueError(
            f"{flag} needs Keras 3, but this is Keras {keras.__version__}: install TensorFlow 2.16 "
            'or newer and "daso_tf[hub]" in another environment, or take another encoder, such as '
            "--encoder=efficientnet_lite0 or applications:NAME."
        )
    return import_extra("keras_hub", "hub", flag)


def _converter(hub: Any, preset: str) -> Any:
    """Returns the image converter of a preset; None where it has none."""
    try:
        return hub.layers.ImageConverter.from_preset(preset)
    except FileNotFoundError:  # KerasHub then takes values 0 to 255 as they are
        return None
    except Exception as error:
        raise _unusable(preset, error) from error


def _unusable(preset: str, error: Exception) -> ValueError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ValueError(
        f"The KerasHub preset {preset} cannot be used: {reason:.400} Allowed: a name such as "
        "dinov2_small, which is downloaded once, or the folder of an image backbone that "
        "save_to_preset wrote."
    )


def _per_channel(converter: Any, name: str, default: float) -> np.ndarray:
    value = getattr(converter, name, None)
    return np.broadcast_to(default if value is None else value, 3).astype(np.float64)


def _side_of(backbone: keras.Model) -> int | None:
    encoder = getattr(backbone, "vision_encoder", backbone)
    shape = getattr(encoder, "image_shape", None) or (None,)
    return shape[0]


def _features(backbone: Any, images: tf.Tensor, preset: str) -> tf.Tensor:
    """Applies a backbone and reduces its output to one vector per image."""
    if hasattr(backbone, "get_vision_embeddings"):  # trained with texts, such as CLIP and SigLIP
        return _vector(backbone, backbone.get_vision_embeddings(images))
    if len(backbone.inputs) != 1 or len(backbone.inputs[0].shape) != 4:
        raise ValueError(
            f"The KerasHub preset {preset} is a {type(backbone).__name__}, which takes more than "
            "images. Allowed: image backbones."
        )
    by_name = isinstance(backbone.input, dict)
    return _vector(backbone, backbone({"images": images} if by_name else images))


def _vector(backbone: Any, output: Any) -> tf.Tensor:
    if isinstance(output, dict):
        output = list(output.values())[-1]
    if len(output.shape) == 4:
        output = keras.layers.GlobalAveragePooling2D(name="pooled", dtype="float32")(output)
    elif len(output.shape) == 3:
        has_class_token = type(backbone).__name__ in _WITH_CLASS_TOKEN
        if getattr(backbone, "use_class_token", has_class_token):
            output = output[:, 0]
        else:
            output = keras.layers.GlobalAveragePooling1D(name="pooled", dtype="float32")(output)
    return keras.layers.Activation("linear", name="features", dtype="float32")(output)
