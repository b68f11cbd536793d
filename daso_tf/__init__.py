"""Semi-supervised learning on imbalanced data, for TensorFlow and Keras."""

from daso_tf import augment, balance, data, encoders, pseudo_labels
from daso_tf.learners import DASO, FixMatch, Learner

__all__ = ["DASO", "FixMatch", "Learner", "augment", "balance", "data", "encoders", "pseudo_labels"]
__version__ = "0.1.0"
