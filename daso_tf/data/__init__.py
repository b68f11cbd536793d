"""Where raw images come from: data sets, long-tailed splits, batches."""

from daso_tf.data.banked import BankedData
from daso_tf.data.batches import (
    check_split,
    evaluation_batches,
    even_batches,
    training_batches,
)
from daso_tf.data.decode import read_image, resize
from daso_tf.data.errors import DataError
from daso_tf.data.images import UNKNOWN, ImageFiles, Images
from daso_tf.data.loading import load
from daso_tf.data.rows import Rows
from daso_tf.data.semi_supervised import (
    SemiSupervisedData,
    from_arrays,
    reading,
    with_pseudo_labeled,
)
from daso_tf.data.sources import DATASETS
from daso_tf.data.statistics import channel_statistics
from daso_tf.data.unlabeled_distribution import estimate_distribution

__all__ = [
    "DATASETS",
    "UNKNOWN",
    "BankedData",
    "DataError",
    "ImageFiles",
    "Images",
    "Rows",
    "SemiSupervisedData",
    "channel_statistics",
    "check_split",
    "estimate_distribution",
    "evaluation_batches",
    "even_batches",
    "from_arrays",
    "load",
    "read_image",
    "reading",
    "resize",
    "training_batches",
    "with_pseudo_labeled",
]
