"""How a raw image becomes a view."""

from daso_tf.augment.ops import OPS
from daso_tf.augment.policies import RandAugment, Weak
from daso_tf.augment.resize import normalise, resize

__all__ = ["OPS", "RandAugment", "Weak", "normalise", "resize"]
