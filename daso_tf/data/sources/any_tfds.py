"""Any image classification data set of tensorflow-datasets, by name."""

import os
from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds

from daso_tf.data.decode import EncodedImage
from daso_tf.data.errors import DataError
from daso_tf.data.pools import FilePool
from daso_tf.data.sources.source import Source
from daso_tf.data.sources.tfds_reader import open_builder, reading


def any_tfds(name: str, data_dir: str | os.PathLike[str] | None) -> Source:
    """Reads an image classification data set of tensorflow-datasets.

    The training images are the split `train`. The test images are the split `test`, or
    `validation` if there is no `test`. If there are both, `validation` has the validation images.
    A split `unlabelled` or `unlabeled` has images of unknown classes.

    Args:
        name: Its name in tensorflow-datasets, optionally with configuration and version: "beans",
            "cifar10_corrupted/fog_1", "food101:2.0.0".
        data_dir: Folder of tensorflow-datasets; None for its default, `~/tensorflow_datasets`.

    Returns:
        A `Source`.

    Raises:
        DataError: If the data set does not exist, is not on disk and cannot be downloaded, or does
            not consist of images with one class each.
    """
    builder = open_builder(name, data_dir)
    image, label = _image_and_label(builder)
    splits = builder.info.splits

    def pool(split: str) -> FilePool:
        return _pool(builder, split, image, label)

    test = "test" if "test" in splits else "validation"
    if "train" not in splits or test not in splits:
        raise DataError(
            f"{name} has the splits {', '.join(map(repr, sorted(splits)))}. It must have 'train', "
            "and 'test' or 'validation'."
        )
    unlabeled = next((split for split in ("unlabelled", "unlabeled") if split in splits), None)
    return Source(
        class_names=tuple(builder.info.features[label].names),
        train=pool("train"),
        test=pool(test),
        unlabeled=pool(unlabeled) if unlabeled else None,
        validation=pool("validation") if "validation" in splits and test == "test" else None,
    )


def _image_and_label(builder: tfds.core.DatasetBuilder) -> Sequence[str]:
    """Returns the names of the features that hold the image and its class."""
    features, kinds = builder.info.features, (tfds.features.Image, tfds.features.ClassLabel)

    def fits(names: Sequence[object]) -> bool:
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
            f"{builder.name} has the features {', '.join(map(repr, sorted(features)))}. It must "
            "have exactly one image and one class label; its images are "
            f"{found[0]} and its class labels {found[1]}."
        )
    return found[0] + found[1]


def _pool(builder: tfds.core.DatasetBuilder, split: str, image: str, label: str) -> FilePool:
    """Reads the encoded image files of a split; only the chosen ones are decoded later."""
    wanted = tfds.decode.PartialDecoding(
        {image: True, label: True}, decoders={image: tfds.decode.SkipDecoding()}
    )
    files: list[EncodedImage] = []
    labels: list[int] = []
    with reading(builder):
        for example in tfds.as_numpy(builder.as_dataset(split=split, decoders=wanted)):
            files.append(EncodedImage(f"{builder.name} {split} {len(files)}", example[image]))
            labels.append(example[label])
    return FilePool(files, np.array(labels, np.int32))
