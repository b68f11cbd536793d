"""Does an image belong to any of the classes? Each file is one answer."""

from daso_tf.open_set.energy import Energy
from daso_tf.open_set.largest_probability import LargestProbability
from daso_tf.open_set.one_vs_all import OneVsAll
from daso_tf.open_set.open_set import OpenSet
from daso_tf.open_set.prototype_distance import PrototypeDistance
from daso_tf.open_set.relative_distance import RelativeDistance

__all__ = [
    "Energy",
    "LargestProbability",
    "OneVsAll",
    "OpenSet",
    "PrototypeDistance",
    "RelativeDistance",
]
