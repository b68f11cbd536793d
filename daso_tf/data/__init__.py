"""Where raw images come from: sources, long-tailed splits, batches."""

from daso_tf.data.batches import evaluation_batches, training_batches
from daso_tf.data.decode import read_image, resize
from daso_tf.data.loading import load
from daso_tf.data.semi_supervised import (
    UNKNOWN,
    DataError,
    Images,
    SemiSupervisedData,
    from_arrays,
)
from daso_tf.data.sources import DATASETS

__all__ = [
    "DATASETS",
    "UNKNOWN",
    "DataError",
    "Images",
    "SemiSupervisedData",
    "evaluation_batches",
    "from_arrays",
    "load",
    "read_image",
    "resize",
    "training_batches",
]
