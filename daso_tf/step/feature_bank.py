"""A feature bank: what a frozen encoder makes of stored views of all images, computed once.

A frozen encoder always answers the same to the same view. So the views are drawn, encoded and kept
on the disk once, and every training on the same pictures reads them: the "images" of its batches
are rows of the bank (`daso_tf.data.Rows`), its views are stored ones
(`daso_tf.augment.StoredView`), and everything else of a step stays as it is.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from daso_tf.augment import RandAugment, Weak, normalize, resize
from daso_tf.data import (
    BankedData,
    DataError,
    ImageFiles,
    Images,
    Rows,
    SemiSupervisedData,
    decode,
)
from daso_tf.data.decode import EncodedImage
from daso_tf.encoders.folding import folded
from daso_tf.encoders.normalized_input import normalization_of
from daso_tf.platform.checks import checked_number, checked_whole_number
from daso_tf.platform.progress import Progress
from daso_tf.step.bank_files import PIECE, BankFile, check_cache
from daso_tf.step.network import input_size

_STRONG = 1 << 20  # where the numbers of the strong views begin, so that no weak view is the same


def default_cache_dir() -> Path:
    """Returns the folder of feature banks: `daso_tf` in the user's folder for caches."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "daso_tf"


def feature_bank(
    data: SemiSupervisedData,
    encoder: keras.Model,
    *,
    weak: keras.layers.Layer | None = None,
    strong: keras.layers.Layer | None = None,
    weak_views: int = 4,
    strong_views: int = 4,
    strong_labeled_views: int = 0,
    resolution: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    max_gigabytes: float = 20.0,
    report: Callable[[str], object] | None = None,
) -> BankedData:
    """Computes the features of all images with a frozen encoder, or reads them from the cache.

    Labeled and unlabeled images get a plain view, `weak_views` and, unlabeled ones,
    `strong_views`. All other images get a plain view. An interrupted computation
    continues where it stopped; files of the cache that are damaged are computed again, as far as
    they are damaged.

    Args:
        data: The images.
        encoder: A `keras.Model` from normalized images to features; it is not trained.
        weak: Layer that makes weak views; by default `Weak()`.
        strong: Layer that makes strong views of weak ones; by default `RandAugment()`.
        weak_views: Weak views per image, at least 1.
        strong_views: Strong views per unlabeled image, at least 0.
        strong_labeled_views: Strong views per labeled image, at least 0; `CoSSL` and
            `SimProPseudoLabeler` need some.
        resolution: Side in pixels to which views are resized; by default the encoder's own.
        cache_dir: Folder of the files; by default that of `default_cache_dir`.
        max_gigabytes: The largest size that all files together may have, in GiB.
        report: Called with lines of text while it computes; by default nothing is said.

    Returns:
        The same data with rows of the bank instead of images.

    Raises:
        DataError: If the folder cannot be written, the bank is too large, or image files cannot be
            read.
        ValueError: If an argument is outside its range.
        OSError: If a file of the bank cannot be written.

    Example:

    >>> import tempfile
    >>> images = np.zeros((6, 8, 8, 3), np.uint8)
    >>> data = daso_tf.data.from_arrays(images[:2], [0, 1], images[2:])
    >>> encoder = daso_tf.encoders.wide_resnet(10, 1, (8, 8, 3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     feature_bank(data, encoder, cache_dir=folder).unlabeled
    Rows(4 images, 9 views with 64 features each)
    """
    bank = Bank(
        data,
        encoder,
        Weak() if weak is None else weak,
        RandAugment() if strong is None else strong,
        checked_whole_number("weak_views", weak_views, least=1),
        checked_whole_number("strong_views", strong_views, least=0),
        checked_whole_number("strong_labeled_views", strong_labeled_views, least=0),
        resolution or input_size(encoder),
        Path(cache_dir) if cache_dir is not None else default_cache_dir(),
    )
    bank.check(checked_number("max_gigabytes", max_gigabytes, above=0))
    bank.compute(report or (lambda line: None))
    return bank.data()


@dataclasses.dataclass(frozen=True, eq=False)
class _Kind:
    """Views of one kind: what makes them, and how many there are per image."""

    config: list[Any]
    view: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    numbers: range  # each view has a number of its own, from which its draws derive


class Bank:
    """The files of a feature bank, and how each is computed.

    Args:
        data: The images.
        encoder: The frozen encoder.
        weak: Makes weak views.
        strong: Makes strong views of weak ones.
        weak_views: Weak views per image.
        strong_views: Strong views per unlabeled image.
        strong_labeled_views: Strong views per labeled image.
        resolution: Side in pixels of the encoder's input.
        cache_dir: Folder of the files.
    """

    def __init__(
        self,
        data: SemiSupervisedData,
        encoder: keras.Model,
        weak: keras.layers.Layer,
        strong: keras.layers.Layer,
        weak_views: int,
        strong_views: int,
        strong_labeled_views: int,
        resolution: int,
        cache_dir: Path,
    ):
        self._data = data
        self._encoder = encoder
        self._resolution = resolution
        self._statistics = normalization_of(encoder) or (data.mean, data.std)
        self._cache_dir = cache_dir

        def strong_of_weak(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
            seeds = tf.random.experimental.stateless_split(seed, 2, alg="philox")
            return strong(weak(images, seed=seeds[0]), seed=seeds[1])

        plain = _Kind(["plain"], lambda images, seed: images, range(1))
        weak_kind = _Kind(
            [_config(weak)], lambda images, seed: weak(images, seed=seed), range(weak_views)
        )

        def kinds(strong_count: int) -> list[_Kind]:
            numbers = range(_STRONG, _STRONG + strong_count)
            strong_kind = _Kind([_config(weak), _config(strong)], strong_of_weak, numbers)
            return [plain, weak_kind, *([strong_kind] if strong_count else [])]

        of_encoder = [
            weights_digest(encoder),
            resolution,
            [float(value) for of_channels in self._statistics for value in of_channels],
        ]
        self._files: dict[str, list[tuple[_Kind, BankFile]]] = {}
        for name, of_part in (
            ("labeled", kinds(strong_labeled_views)),
            ("unlabeled", kinds(strong_views)),
            ("validation", [plain]),
            ("test", [plain]),
            ("unknown", [plain]),
        ):
            part = getattr(data, name)
            if part is None:
                continue
            pictures = _pictures_digest(part)
            self._files[name] = []
            for kind in of_part:
                content = [of_encoder, kind.config, list(kind.numbers), pictures]
                key = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
                shape = (len(part), len(kind.numbers), encoder.output_shape[-1])
                self._files[name].append((kind, BankFile(cache_dir, key, shape)))

    @property
    def num_bytes(self) -> int:
        """The size of all files together."""
        return sum(file.num_bytes for files in self._files.values() for _, file in files)

    def check(self, max_gigabytes: float) -> None:
        """Refuses a bank that is too large, or a folder that cannot hold it.

        Args:
            max_gigabytes: The largest size, in GiB.

        Raises:
            DataError: If it is larger, or the folder cannot be written or is full.
        """
        size = self.num_bytes / 2**30
        if size > max_gigabytes:
            views = ", ".join(
                f"{file.shape[0]:,} {name} images x {file.shape[1]} views"
                for name, files in self._files.items()
                for _, file in files
            )
            length = self._encoder.output_shape[-1]
            raise DataError(
                f"The feature bank would have {size:.2f} GiB ({views}, {length} features of 2 "
                f"bytes each), more than --max_bank_gigabytes={max_gigabytes:g}. Give a larger "
                "limit, or fewer --bank_weak_views and --bank_strong_views."
            )
        missing = [
            file
            for files in self._files.values()
            for _, file in files
            if not file.path.exists() or file.path.stat().st_size < file.num_bytes
        ]
        check_cache(self._cache_dir, sum(file.num_bytes for file in missing))

    def compute(self, report: Callable[[str], object]) -> None:
        """Computes what the files lack.

        Args:
            report: Called with lines of text.

        Raises:
            OSError: If a file cannot be written.
            DataError: If image files cannot be read.
        """
        todo = [
            (name, kind, file, missing)
            for name, files in self._files.items()
            for kind, file in files
            if (missing := file.missing())
        ]
        views = sum(
            min(PIECE, file.shape[0] - PIECE * number) * file.shape[1]
            for _, _, file, missing in todo
            for number in missing
        )
        size = f"{self.num_bytes / 2**30:.2f} GiB in {self._cache_dir}"
        if not todo:
            report(f"Feature bank: read from the cache, {size}.")
            return
        report(f"Feature bank: computing {views:,} views with the frozen encoder, {size}.")
        progress = Progress(views, report)
        for name, kind, file, _ in todo:
            part = getattr(self._data, name)
            left_out = part.left_out if isinstance(part, ImageFiles) else set()
            left_out.update(file.left_out())
            file.fill(functools.partial(self._features, part, kind, progress), left_out)
        progress.finish()

    def data(self) -> BankedData:
        """Returns the data with rows of the bank, once it is computed."""
        rows = {}
        for name, files in self._files.items():
            part = getattr(self._data, name)
            labels = part.labels
            if isinstance(part, ImageFiles):
                for _, file in files:
                    part.left_out.update(file.left_out())
                labels = part.labels_as_read()
            rows[name] = Rows([file.views() for _, file in files], labels, part.size, part)
        return BankedData(
            rows["labeled"],
            rows["unlabeled"],
            rows.get("validation"),
            rows.get("test"),
            self._data.class_names,
            *self._statistics,
            unknown=rows.get("unknown"),
            encoder=self._encoder,
            resolution=self._resolution,
        )

    def _features(
        self,
        part: Images | ImageFiles,
        kind: _Kind,
        progress: Progress,
        number: int,
        members: np.ndarray,
    ) -> np.ndarray:
        """Returns the features of the views of a piece, float `(images, views, D)`."""
        images, encode = tf.constant(part.take(members)), self._encode(kind)
        views = [encode(images, tf.constant([number, view])).numpy() for view in kind.numbers]
        progress.add(len(members) * len(views))
        return np.stack(views, axis=1)

    @functools.cached_property
    def _folded(self) -> keras.Model:
        """The encoder with BatchNorm as part of its convolutions, which is faster."""
        return folded(self._encoder)

    @functools.cache  # noqa: B019  # a bank lives as long as its computation
    def _encode(self, kind: _Kind) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
        size, encoder = (self._resolution, self._resolution), self._folded

        @tf.function(autograph=False)
        def encode(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
            views = resize(kind.view(images, seed), size)
            views = normalize(views, *self._statistics)
            features = tf.cast(encoder(views, training=False), tf.float32)
            return tf.clip_by_value(features, np.finfo(np.float16).min, np.finfo(np.float16).max)

        return encode


def weights_digest(model: keras.Model) -> str:
    """Returns a short text that other weights or other kinds of layers change.

    Args:
        model: Any model.
    """
    digest = hashlib.sha256()
    for layer in model.layers:  # their names are numbered per process
        digest.update(type(layer).__name__.encode())
    for weight in model.weights:
        digest.update(repr(tuple(weight.shape)).encode())
        digest.update(np.ascontiguousarray(weight.numpy()).data)
    return digest.hexdigest()[:32]


def _config(layer: keras.layers.Layer) -> list[Any]:
    """Returns class and arguments of a layer without its name, which is numbered per process."""
    arguments = keras.saving.serialize_keras_object(layer)["config"]
    own = {name: value for name, value in arguments.items() if name not in _NOT_OF_VIEWS}
    return [type(layer).__name__, own]


_NOT_OF_VIEWS = ("name", "trainable", "dtype")


def _pictures_digest(part: Images | ImageFiles) -> str:
    """Returns a digest of the files of images, read already or not, or of pixels without files."""
    digest = hashlib.sha256(repr((len(part), part.size)).encode())
    if part.files is None:
        assert isinstance(part, Images)
        digest.update(np.ascontiguousarray(part.images).data)
        return digest.hexdigest()
    digest.update(f"decoded by version {decode.VERSION}".encode())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for of_file in pool.map(_file_digest, part.files):
            digest.update(of_file)
    return digest.hexdigest()


def _file_digest(file: Any) -> bytes:
    if isinstance(file, EncodedImage):
        return hashlib.sha256(file.content).digest()
    try:
        with open(file, "rb") as content:
            return hashlib.file_digest(content, "sha256").digest()
    except OSError:
        return b"unreadable"  # who reads its pixels reports it
