"""Where raw images come from: one file per source."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

from daso_tf.data.errors import DataError
from daso_tf.data.sources import image_list, semi_aves
from daso_tf.data.sources.benchmarks import BENCHMARKS, benchmark
from daso_tf.data.sources.digits import digits
from daso_tf.data.sources.image_folder import image_folder
from daso_tf.data.sources.source import Option, Source


class _Entry(NamedTuple):
    """How to open a data set: a function of its folder and options, and what options there are."""

    open: Callable[..., Source]
    options: Mapping[str, Option] = MappingProxyType({})


# A new data set is a file with such a function, and a line here.
_ENTRIES = {
    "digits": _Entry(digits),
    "image_folder": _Entry(image_folder),
    "image_list": _Entry(image_list.image_list, image_list.OPTIONS),
    **{name: _Entry(partial(benchmark, name)) for name in BENCHMARKS},
    "semi_aves": _Entry(semi_aves.semi_aves, semi_aves.OPTIONS),
}
_ANY_TFDS = "tfds:"

# Names of the data sets that `load` knows; NAME is any image classification set of
# tensorflow-datasets.
DATASETS = (*_ENTRIES, f"{_ANY_TFDS}NAME")

# The options of all data sets, by name.
OPTIONS: Mapping[str, Option] = {
    name: option for entry in _ENTRIES.values() for name, option in entry.options.items()
}


def open_source(
    dataset: str, data_dir: str | os.PathLike[str] | None, **options: str | os.PathLike[str] | None
) -> Source:
    """Opens a data set by name and lists its images, without reading more than necessary.

    Args:
        dataset: One of `DATASETS`; NAME stands for any name in tensorflow-datasets.
        data_dir: Folder of the data; None for the default of the data set.
        **options: Options of the data set; None means the default.

    Returns:
        A `Source`.

    Raises:
        DataError: If the data set is unknown, its data is missing or broken, or it does not have an
            option or its value.
    """
    entry = _entry(dataset)
    chosen: dict[str, str | os.PathLike[str] | None] = {
        name: option.choices[0] if option.choices else None
        for name, option in entry.options.items()
    }
    for name, value in options.items():
        if value is None:
            continue
        if name not in chosen:
            others = [key for key, other in _ENTRIES.items() if name in other.options]
            raise DataError(
                f"{name}={value!r} is an option of {' and '.join(others) or 'no data set'}; "
                f"{dataset!r} has no option {name}. Leave it out."
            )
        choices = entry.options[name].choices
        if choices and value not in choices:
            raise DataError(f"{name}={value!r}; for {dataset} it must be {' or '.join(choices)}.")
        chosen[name] = value
    return entry.open(data_dir, **chosen)


def _entry(dataset: str) -> _Entry:
    if dataset in _ENTRIES:
        return _ENTRIES[dataset]
    if dataset.startswith(_ANY_TFDS):
        from daso_tf.data.sources.any_tfds import any_tfds

        return _Entry(partial(any_tfds, dataset.removeprefix(_ANY_TFDS)))
    raise DataError(
        f"There is no data set {dataset!r}. The known data sets are {', '.join(DATASETS)}."
    )
