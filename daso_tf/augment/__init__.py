"""How does a raw image become a view?"""

from daso_tf.augment.ops import OPS
from daso_tf.augment.policies import RandAugment, Weak
from daso_tf.augment.random_resized_crop import RandomResizedCrop
from daso_tf.augment.resize import normalise, resize

__all__ = ["OPS", "RandAugment", "RandomResizedCrop", "Weak", "normalise", "resize"]
