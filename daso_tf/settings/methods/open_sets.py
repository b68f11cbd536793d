"""Does an unlabeled image belong to any class?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from daso_tf.settings.flag import choice, number, switch
from daso_tf.settings.methods.entry import Context, Entry

if TYPE_CHECKING:
    from daso_tf.open_set import OpenSet


OPEN_SET = switch(
    "open_set",
    False,
    "Keep unlabeled images that belong to no class out of what is taught and out of the estimates "
    "of the class distribution, from the first evaluation on; needs validation images.",
)
_rejected = number(
    "open_set_rejected",
    0.05,
    "(0, 1)",
    "Share of the validation images that --open_set wrongly takes for images of no class.",
)
OPEN_SETS = {
    "energy": Entry("open_set.Energy", rejected=_rejected),
    "largest_probability": Entry("open_set.LargestProbability", rejected=_rejected),
    "prototypes": Entry("open_set.PrototypeDistance", rejected=_rejected),
    "one_vs_all": Entry("open_set.OneVsAll", rejected=_rejected),
    "relative_distance": Entry("open_set.RelativeDistance", rejected=_rejected),
}
OPEN_SET_SCORE = choice(
    "open_set_score",
    "relative_distance",
    OPEN_SETS,
    "By what --open_set tells images of no class: energy of the logits, largest probability, "
    "distance of the features to the nearest prototype, heads that tell each class from all others "
    "(as in OpenMatch), or distance to the nearest class minus that to all unlabeled images.",
)


def open_set_of(context: Context) -> OpenSet:
    """Makes the score of images of no class that the settings name."""
    return OPEN_SETS[context.settings.open_set_score].build(context)
