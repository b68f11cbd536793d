"""Which images the settings of a run select; they are not read yet."""

from __future__ import annotations

import dataclasses

from daso_tf.data.loading import Selection, select
from daso_tf.data.long_tail import LongTail
from daso_tf.data.sources import OPTIONS
from daso_tf.settings.methods import LEARNERS
from daso_tf.settings.settings import Settings


def selected(settings: Settings) -> Selection:
    """Opens the data set of a run and selects its images, copies included.

    Args:
        settings: Those of the run.

    Raises:
        DataError: If the data is missing, broken or too small for the settings.
    """
    sizes = LongTail(**{field.name: settings[field.name] for field in dataclasses.fields(LongTail)})
    return select(
        settings.dataset,
        settings.data_dir,
        sizes,
        settings.seed,
        LEARNERS[settings.learner].make.labeled_alone,
        max_megapixels=settings.max_megapixels,
        **{name: settings[name] for name in OPTIONS},
    )
