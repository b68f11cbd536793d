"""How does a raw image become a view?"""

from daso_tf.augment.ops import OPS
from daso_tf.augment.policies import RandAugment, Weak
from daso_tf.augment.random_resized_crop import RandomResizedCrop
from daso_tf.augment.resize import normalize, resize
from daso_tf.augment.stored_view import StoredView

normalise = normalize  # its name until version 0.1

__all__ = [
    "OPS",
    "RandAugment",
    "RandomResizedCrop",
    "StoredView",
    "Weak",
    "normalize",
    "resize",
]
