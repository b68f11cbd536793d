"""Any image classification set of tensorflow-datasets, by its name there."""

import os
from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds

from daso_tf.data.decode import EncodedImage
from daso_tf.data.errors import DataError
from daso_tf.data.pools import FilePool
from daso_tf.data.sources.source import Source
from daso_tf.data.sources.tfds_reader import open_builder, reading


def any_tfds(name: str, data_dir: str | os.PathLike | None) -> Source:
    """Reads an image classification set of tensorflow-datasets.

    Splits are taken by name: `train`; `test`, or `validation` where there is no `test`;
    `validation` where there are both; `unlabelled` or `unlabeled` as images of unknown classes.

    Args:
        name: name there, with configuration and version where wanted: "beans",
            "cifar10_corrupted/fog_1", "food101:2.0.0".
        data_dir: folder of tensorflow-datasets; None for its default, `~/tensorflow_datasets`.

    Returns:
        A `Source`.

    Raises:
        DataError: there is no such set, it is not on disk and cannot be downloaded, or it is not
            one of images with one class each.
    """
    builder = open_builder(name, data_dir)
    image, label = _image_and_label(builder)
    splits = builder.info.splits
    test = "test" if "test" in splits else "validation"
    if "train" not in splits or test not in splits:
        raise DataError(
            f"{name} has the splits {', '.join(map(repr, sorted(splits)))}; it needs 'train', and "
            "'test' or 'validation'."
        )
    unlabeled = next((split for split in ("unlabelled", "unlabeled") if split in splits), None)
    return Source(
        class_names=tuple(builder.info.features[label].names),
        train=_pool(builder, "train", image, label),
        test=_pool(builder, test, image, label),
        unlabeled=unlabeled and _pool(builder, unlabeled, image, label),
        validation=_pool(builder, "validation", image, label)
        if "validation" in splits and test == "test"
        else None,
    )


def _image_and_label(builder: tfds.core.DatasetBuilder) -> Sequence[str]:
    """Returns the names of the features that hold the image and its class."""
    features, kinds = builder.info.features, (tfds.features.Image, tfds.features.ClassLabel)

    def fits(names) -> bool:
        return all(
            isinstance(name, str) and type(features[name]) is kind
            for name, kind in zip(names, kinds, strict=True)
        )

    supervised = builder.info.supervised_keys
    if supervised and len(supervised) == 2 and fits(supervised):
        return supervised
    found = [[name for name in sorted(features) if type(features[name]) is kind] for kind in kinds]
    if [len(names) for names in found] != [1, 1]:
        raise DataError(
            f"{builder.name} has the features {', '.join(map(repr, sorted(features)))}; it needs "
            f"one image and one class label, and has {found[0]} and {found[1]}."
        )
    return found[0] + found[1]


def _pool(builder: tfds.core.DatasetBuilder, split: str, image: str, label: str) -> FilePool:
    """Reads the files of a split as they are stored; they are decoded once they are chosen."""
    wanted = tfds.decode.PartialDecoding(
        {image: True, label: True}, decoders={image: tfds.decode.SkipDecoding()}
    )
    files, labels = [], []
    with reading(builder):
        for example in tfds.as_numpy(builder.as_dataset(split=split, decoders=wanted)):
            files.append(EncodedImage(f"{builder.name} {split} {len(files)}", example[image]))
            labels.append(example[label])
    return FilePool(files, np.array(labels, np.int32))
