"""Where raw images come from: one file a source."""

from daso_tf.data.errors import DataError
from daso_tf.data.sources.any_tfds import any_tfds
from daso_tf.data.sources.benchmarks import BENCHMARKS, benchmark
from daso_tf.data.sources.digits import digits
from daso_tf.data.sources.image_folder import image_folder
from daso_tf.data.sources.semi_aves import semi_aves
from daso_tf.data.sources.source import Source

_ANY_TFDS = "tfds:"
DATASETS = ("digits", "image_folder", *BENCHMARKS, "semi_aves", f"{_ANY_TFDS}NAME")


def open_source(
    dataset: str, data_dir: str | None, *, labeled: str | None = None, unlabeled: str | None = None
) -> Source:
    """Finds a data set by name and lists what it offers, without reading more than it must.

    Args:
        dataset: one of `DATASETS`; NAME stands for any name that tensorflow-datasets knows.
        data_dir: folder that holds the data; None leaves it to the source.
        labeled: which list of labeled images `semi_aves` takes, see there; None for its default.
        unlabeled: which unlabeled images `semi_aves` takes, likewise.

    Returns:
        A `Source`.

    Raises:
        DataError: there is no such data set, its data is not there or not as it should be, or a
            list is chosen of a data set that has none.
    """
    if dataset == "semi_aves":
        return semi_aves(data_dir, labeled or "l_train", unlabeled or "in")
    for name, value in (("labeled", labeled), ("unlabeled", unlabeled)):
        if value:
            raise DataError(
                f"{name}={value!r} chooses among the lists of semi_aves; {dataset!r} has no such "
                f"lists. Leave {name} out."
            )
    if dataset == "digits":
        return digits()
    if dataset == "image_folder":
        return image_folder(data_dir)
    if dataset in BENCHMARKS:
        return benchmark(dataset, data_dir)
    if dataset.startswith(_ANY_TFDS):
        return any_tfds(dataset.removeprefix(_ANY_TFDS), data_dir)
    raise DataError(f"There is no data set {dataset!r}; known are {', '.join(DATASETS)}.")
