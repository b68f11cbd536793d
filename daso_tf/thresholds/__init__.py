"""Which pseudo-labels are taught, and how strongly? Each file is one answer."""

from daso_tf.thresholds.adsh import ADSHThreshold
from daso_tf.thresholds.flexmatch import FlexMatchThreshold
from daso_tf.thresholds.freematch import FreeMatchThreshold
from daso_tf.thresholds.saw import SAWWeight
from daso_tf.thresholds.softmatch import SoftMatchWeight
from daso_tf.thresholds.threshold import FixedThreshold, Selection, Threshold

__all__ = [
    "ADSHThreshold",
    "FixedThreshold",
    "FlexMatchThreshold",
    "FreeMatchThreshold",
    "SAWWeight",
    "Selection",
    "SoftMatchWeight",
    "Threshold",
]
