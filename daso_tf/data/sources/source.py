"""What every source returns, and how it declares options of its own."""

import dataclasses

from daso_tf.data.pools import Pool
from daso_tf.data.statistics import Statistics


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set before it is split.

    Args:
        class_names: K names, in the order of the labels.
        train: Training images of known classes.
        test: Test images of known classes; None if the data set has none.
        unlabeled: Training images of unknown classes. If None, unlabeled images are taken from
            `train`.
        validation: Validation images of known classes; None if the data set has none.
        unknown: Images of none of the classes, all with the label -1; None if there are none. They
            only measure how well such images are told from test images.
        statistics: Published channel means and standard deviations, in 0..1; None to compute them.
        listed: Whether the classes are listed from head to tail of a long-tailed split, as
            published for a benchmark. If not, larger classes come first.
    """

    class_names: tuple[str, ...]
    train: Pool
    test: Pool | None
    unlabeled: Pool | None = None
    validation: Pool | None = None
    statistics: Statistics | None = None
    listed: bool = False
    unknown: Pool | None = None

    def limited_to(self, max_megapixels: float) -> "Source":
        """Returns the same images, of which larger files count as unreadable; see `load`."""
        pools = {
            part: pool.limited_to(max_megapixels)
            for part in ("train", "test", "unlabeled", "validation", "unknown")
            if (pool := getattr(self, part)) is not None
        }
        return dataclasses.replace(self, **pools)


@dataclasses.dataclass(frozen=True)
class Option:
    """An option that a data set has in addition to its folder.

    Args:
        choices: The allowed values; the first is the default. Empty where the value is a path.
        help: What it chooses, as one line for `--help`.
    """

    choices: tuple[str, ...]
    help: str
