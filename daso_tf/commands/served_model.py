"""Opens a model that classifies images of any size: a SavedModel, or a `.keras` file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from daso_tf.augment import resize
from daso_tf.data.folders import files_below
from daso_tf.platform.disk import open_file
from daso_tf.platform.keras_2_models import load_model
from daso_tf.step.export import SIGNATURE, answers

_SAME = 1e-6  # answers that differ by less are the same

# The outputs of a model that tells images of no class: type and rank.
_UNKNOWN = {"unknown_score": (tf.float32, 1), "unknown": (tf.bool, 1)}

Signature = Callable[..., dict[str, tf.Tensor]]


@dataclasses.dataclass(frozen=True)
class ServedModel:
    """A model that classifies raw images.

    Args:
        serve: A function of `images`, uint8 `(batch, height, width, 3)`, that returns a dictionary
            with `probabilities`, float32 `(batch, K)`, and `class_names`, string `(batch,)`, where
            the classes have names.
        num_classes: K.
        class_names: All names, where they are known.
        reduce: Resizes images, uint8 `(1, height, width, 3)`, as the model does; None if it is not
            known how it does. Reduced images fit into one batch, whatever their sizes were.
        tells_unknown: Whether `serve` also returns `unknown_score`, float32 `(batch,)`, and
            `unknown`, bool `(batch,)`.
    """

    serve: Signature
    num_classes: int
    class_names: tuple[str, ...] | None
    reduce: Callable[[tf.Tensor], tf.Tensor] | None
    tells_unknown: bool = False


def open_model(path: str) -> ServedModel:
    """Opens a model.

    Args:
        path: The folder of a SavedModel that `export` wrote, or the `.keras` file of a learner.

    Raises:
        ValueError: If there is no such model, or it is damaged or that of another program.
    """
    if path.endswith(".keras"):
        return _of_learner(path)
    if not tf.saved_model.contains_saved_model(path):
        raise ValueError(
            f"{path!r} is not a SavedModel; give the folder of an export, or a .keras file"
        )
    try:
        for entry in files_below(path):
            open_file(entry.path).close()  # TensorFlow would wait for a pipe
        loaded = tf.saved_model.load(path)
        serve = loaded.signatures[SIGNATURE]
        _check_signature(serve)
        graph = serve.graph.as_graph_def(add_shapes=True)
        nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
        named = "class_names" in serve.structured_outputs
        images = serve.structured_input_signature[1]["images"].shape
        sizes = _input_sizes(nodes) if images[:3].as_list() == [None] * 3 else []
        model = _probed(serve, sizes, _lists_of_texts(nodes) if named else [], images.as_list())
        tells_unknown = _UNKNOWN.keys() <= serve.structured_outputs.keys()
        return dataclasses.replace(model, tells_unknown=tells_unknown)
    except Exception as error:  # a damaged file fails in many ways
        reason = str(getattr(error, "message", error)).strip() or type(error).__name__
        raise ValueError(
            f"the SavedModel in {path!r} cannot be used ({reason.splitlines()[0]}); give the "
            "folder of an export, or export again"
        ) from error


def _of_learner(path: str) -> ServedModel:
    try:
        open_file(path).close()
        model = load_model(path)
        names = None if model.class_names is None else tuple(model.class_names)
        serve = tf.function(
            answers(model, names),
            input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")],
        )
        served = _probed(serve, [(model.network.resolution,) * 2], [names] if names else [])
        tells_unknown = model.open_set is not None and model.open_set.has_limit
        return dataclasses.replace(served, tells_unknown=tells_unknown)
    except Exception as error:  # a damaged file, or one of another program, fails in many ways
        reason = str(getattr(error, "message", error)).strip() or type(error).__name__
        raise ValueError(
            f"{path!r} cannot be used ({reason.splitlines()[0]}); give the .keras file of a "
            "learner, or the folder of an export"
        ) from error


def _check_signature(serve: Any) -> None:
    """Refuses a model with other inputs and outputs than `export` writes."""
    _, inputs = serve.structured_input_signature
    images = tf.TensorSpec([None, None, None, 3], tf.uint8)
    if list(inputs) != ["images"] or not inputs["images"].is_compatible_with(images):
        raise ValueError(f"its inputs are {', '.join(map(str, inputs.values()))}, not uint8 images")
    wanted = {"class_ids": (tf.int64, 1), "probabilities": (tf.float32, 2)}
    if "class_names" in serve.structured_outputs:
        wanted["class_names"] = (tf.string, 1)
    if serve.structured_outputs.keys() & _UNKNOWN.keys():
        wanted |= _UNKNOWN
    for name, (dtype, rank) in wanted.items():
        output = serve.structured_outputs.get(name)
        if output is None or output.dtype != dtype or output.shape.rank not in (rank, None):
            raise ValueError(f"it has no output {name} of type {dtype.name} and rank {rank}")


def _probed(
    serve: Signature,
    sizes: Iterable[tuple[int, int]],
    names: Iterable[tuple[str, ...]],
    shape: Sequence[int | None] = (None, None, None, 3),
) -> ServedModel:
    """Finds out how a model resizes images: tries it on noise.

    Args:
        serve: The model.
        sizes: Heights and widths to which it may resize images.
        names: What may be the names of its classes.
        shape: That of its images; None where it takes any length.
    """

    def answer(images: tf.Tensor) -> np.ndarray:
        return serve(images=images)["probabilities"].numpy()

    rng = np.random.default_rng(0)
    first = [length or any_length for length, any_length in zip(shape, (1, 8, 8, 3), strict=True)]
    num_classes = answer(tf.zeros(first, tf.uint8)).shape[1]
    of_all = {texts for texts in names if len(texts) == num_classes}
    class_names = of_all.pop() if len(of_all) == 1 else None
    for height, width in sizes:
        reduce = _resizing((height, width))
        shapes = [(2 * height + 3, 3 * width + 1), (height // 2 + 1, width + 5)]
        noise = [tf.constant(rng.integers(0, 256, (1, *shape, 3), np.uint8)) for shape in shapes]
        expected = [answer(images) for images in noise]
        differ = np.abs(expected[0] - expected[1]).max() > 100 * _SAME  # else this says nothing
        if differ and all(
            np.abs(answer(reduce(images)) - right).max() <= _SAME
            for images, right in zip(noise, expected, strict=True)
        ):
            return ServedModel(serve, num_classes, class_names, reduce)
    return ServedModel(serve, num_classes, class_names, None)


def _resizing(size: tuple[int, int]) -> Callable[[tf.Tensor], tf.Tensor]:
    return tf.function(
        lambda images: resize(images, size),
        input_signature=[tf.TensorSpec([1, None, None, 3], tf.uint8)],
    )


def _input_sizes(nodes: Iterable[Any]) -> list[tuple[int, int]]:
    """Returns heights and widths of images of known size in a graph, the smallest first."""
    sizes = set()
    for node in nodes:
        for shape in node.attr["_output_shapes"].list.shape:
            lengths = [dimension.size for dimension in shape.dim]
            if len(lengths) == 4 and lengths[0] == -1 and lengths[3] == 3 and min(lengths[1:]) > 0:
                sizes.add((lengths[1], lengths[2]))
    return sorted(sizes)[:4]


def _lists_of_texts(nodes: Iterable[Any]) -> list[tuple[str, ...]]:
    """Returns the constant lists of texts in a graph."""
    values = [
        tf.make_ndarray(node.attr["value"].tensor)
        for node in nodes
        if node.op == "Const" and node.attr["dtype"].type == tf.string.as_datatype_enum
    ]
    return [
        tuple(text.decode(errors="surrogateescape") for text in value.tolist())
        for value in values
        if value.ndim == 1
    ]
