"""What every source answers with."""

import dataclasses

from daso_tf.data.pools import Pool

Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set before it is split.

    Args:
        class_names: K names, in the order of the labels.
        train: training images of known classes.
        test: test images of known classes.
        unlabeled: training images of unknown classes; None where there are none, and the
            unlabeled part is carved from `train`.
        validation: validation images of known classes; None where the source has none.
        statistics: published channel means and deviations, in 0..1; None to compute them.
    """

    class_names: tuple[str, ...]
    train: Pool
    test: Pool
    unlabeled: Pool | None = None
    validation: Pool | None = None
    statistics: Statistics | None = None
