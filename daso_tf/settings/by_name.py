"""Parts by name in Python: the entries of the command line, with the defaults of their flags."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from daso_tf.data import SemiSupervisedData
from daso_tf.settings import methods
from daso_tf.settings.methods import Context, Entry
from daso_tf.settings.settings import Settings
from daso_tf.step import named_parts
from daso_tf.step.named_parts import Known


class _Missing:
    """Stands for what was not given: whatever is asked of it, it says what to give."""

    def __init__(self, message: str):
        self._message = message

    def _refuse(self, *_: Any) -> Any:
        raise ValueError(self._message)

    __getattr__ = __len__ = __iter__ = __mul__ = __rmul__ = __lt__ = __float__ = _refuse


def _make(argument: str, table: Mapping[str, Entry | None], name: str, known: Known) -> Any:
    """Makes a part as the command line does where no other flag is given."""
    if name in methods.SELF_TRAINING and argument == "pseudo_labeler":
        raise ValueError(
            f"pseudo_labeler={name!r} is self-training in several generations, which only the "
            f"command trains: python -m daso_tf.train --pseudo_labeler={name}."
        )
    entry = table[name]
    if entry is None:
        return None
    made = f"{argument}={name!r} makes a {entry.make.__name__}, which needs"
    instead = f"or give a {entry.make.__name__} with its arguments."
    data: Any = known.data
    if data is None:
        data = _Missing(f"{made} the data: give data=, from daso_tf.data.from_arrays, {instead}")
    steps: Any = known.total_steps
    if steps is None:
        steps = _Missing(f"{made} the length of the training: give total_steps=, {instead}")
    values = {flag.name: flag.default for flag in entry.flags}
    for learner in methods.LEARNERS.values():
        if learner.make is known.learner:
            values |= learner.defaults
    of_learner = {"resolution": known.resolution, "steps": steps, "num_classes": known.num_classes}
    return entry.build(_PartContext(Settings(values | of_learner), data, [], 1.0, steps))


class _PartContext(Context):
    """A context that counts the labeled images only where a part asks for it."""

    @property
    def labeled_counts(self) -> list[int]:  # type: ignore[override]
        """Labeled images of each class."""
        data: SemiSupervisedData = self.data
        return data.labeled_counts.tolist()

    @property
    def num_classes(self) -> int:
        """K, which the learner knows without data."""
        return self.settings["num_classes"]


for _argument, _table in (
    ("pseudo_labeler", methods.PSEUDO_LABELERS),
    ("threshold", methods.THRESHOLDS),
    ("balanced_head", methods.BALANCED_HEADS),
    ("open_set", methods.OPEN_SETS),
    ("supervised_loss", methods.SUPERVISED_LOSSES),
    ("weak", methods.WEAK_VIEWS),
    ("classifier", methods.CLASSIFIERS),
):
    named_parts.register(_argument, _table, functools.partial(_make, _argument, _table))
