"""Training images that stay on the device, from which a step takes its own."""

from __future__ import annotations

import weakref
from typing import Any

import tensorflow as tf

from daso_tf.data import DataError, Images
from daso_tf.data.memory import as_tensor, bytes_of, machine_memory
from daso_tf.platform import cores

# Learners that train on the same images, such as a run and its twin, share their tensors.
_TENSORS: weakref.WeakKeyDictionary[Images, tf.Tensor] = weakref.WeakKeyDictionary()


class DeviceImages:
    """All training images as uint8 tensors on the device that computes the steps.

    Without a GPU, the tensors are the arrays in memory and not copies of them.

    Args:
        labeled: The labeled images.
        unlabeled: The unlabeled images.

    Raises:
        DataError: If they do not fit into the memory of the device.
    """

    def __init__(self, labeled: Images, unlabeled: Images):
        check_fits(labeled, unlabeled)
        self.labeled, self.unlabeled = (_on_device(images) for images in (labeled, unlabeled))

    def taken(self, inputs: Any) -> Any:
        """Returns the inputs of a step with images in place of their positions.

        Args:
            inputs: Those of a batch, `(labeled, unlabeled)` or `(labeled, unlabeled, positions)`.
                If they are images, they are returned as they are.
        """
        if not isinstance(inputs, (tuple, list)) or tf.TensorShape(inputs[0].shape).rank != 1:
            return inputs
        labeled, unlabeled, *positions = inputs
        return (tf.gather(self.labeled, labeled), tf.gather(self.unlabeled, unlabeled), *positions)

    def same_as(self, other: DeviceImages) -> bool:
        """Returns whether the other ones are the same tensors."""
        return self.labeled is other.labeled and self.unlabeled is other.unlabeled


def check_fits(*parts: Images) -> None:
    """Refuses images that need more than half of the memory of the device: steps need the rest.

    Args:
        *parts: The images.

    Raises:
        DataError: If they do not fit; the message shows the calculation.
    """
    height, width = parts[0].size
    count = sum(len(images) for images in set(parts))
    needed, of_gpu = bytes_of(count, parts[0].size), cores.gpu_memory()
    memory, whose = of_gpu or machine_memory(), "the GPU" if of_gpu else "this machine"
    if needed > memory / 2:
        raise DataError(
            f"device_data: {count:,} training images x {height} x {width} x 3 bytes are "
            f"{needed / 2**30:.2f} GiB, more than half of the {memory / 2**30:.2f} GiB of {whose}. "
            "Leave out device_data, or keep the images at a smaller size (source_size)."
        )


def _on_device(images: Images) -> tf.Tensor:
    if images not in _TENSORS:
        with tf.init_scope():
            tensor = as_tensor(images.images)
            if cores.gpus():
                with tf.device("GPU:0"):
                    tensor = tf.identity(tensor)
        _TENSORS[images] = tensor
    return _TENSORS[images]
