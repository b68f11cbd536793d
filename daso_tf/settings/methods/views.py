"""How does a raw image become a view?"""

from __future__ import annotations

from typing import Any

from daso_tf.data import BankedData
from daso_tf.settings.flag import choice, integer, switch
from daso_tf.settings.methods.entry import Computed, Context, Entry

HORIZONTAL_FLIP = switch(
    "horizontal_flip", True, "Mirror half of the views; off for digits and letters."
)
RESOLUTION = integer(
    "resolution",
    32,
    "[8, 1024]",
    "Height and width in pixels of the encoder's input.",
    shown_default="32; efficientnet_lite0: 96; keras_hub: that of the preset",
)
CROP_PADDING = integer(
    "crop_padding",
    None,
    "[0, 512]",
    "Pixels by which padded_crop shifts a view at most.",
    shown_default="an eighth of the side",
)
WEAK_VIEWS = {
    "padded_crop": Entry(
        "augment.Weak",
        horizontal_flip=HORIZONTAL_FLIP,
        padding=Computed(
            lambda c: 0.125 if c.settings.crop_padding is None else c.settings.crop_padding,
            (CROP_PADDING,),
        ),
    ),
    "random_resized_crop": Entry(
        "augment.RandomResizedCrop", size=RESOLUTION, horizontal_flip=HORIZONTAL_FLIP
    ),
}
WEAK_VIEW = choice(
    "weak_view",
    "padded_crop",
    WEAK_VIEWS,
    "How weak views are cropped: shifted by up to --crop_padding, or a random part of any size.",
)
CUTOUT_SIZE = integer(
    "cutout_size", 16, "[0, 1024]", "Side in pixels of the square cut out of strong views."
)


def weak_layer(context: Context) -> Any:
    """Makes weak views: of images, or by choosing one of those that a feature bank stores."""
    if isinstance(context.data, BankedData):
        from daso_tf.step.stored_views import stored_weak

        return stored_weak(context.data)
    return WEAK_VIEWS[context.settings.weak_view].build(context)


def strong_layer(context: Context) -> Any:
    """Makes strong views of weak ones; as `weak_layer`."""
    if isinstance(context.data, BankedData):
        from daso_tf.step.stored_views import stored_strong

        return stored_strong(context.data)
    from daso_tf.augment import RandAugment

    return RandAugment(cutout=context.settings.cutout_size)


strong = Computed(strong_layer, (CUTOUT_SIZE,))
