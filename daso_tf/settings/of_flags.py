"""Which flags cannot be combined, whatever the classes of the library say.

These rules need no class, so `daso-tf train` checks them before it imports TensorFlow. The rules
of the classes are in `daso_tf.settings.combinations`, which includes these.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from daso_tf.settings.methods import BALANCED_HEADS, SELF_TRAINING, uses_unlabeled_images
from daso_tf.settings.settings import Settings

# What counters the imbalance of the labeled images, by the flag that asks for it.
BALANCES = {
    "logit_adjustment": "--logit_adjustment",
    "test_logit_adjustment": "--test_logit_adjustment",
    "class_balanced": "--supervised_loss=class_balanced",
    "ldam": "--supervised_loss=ldam",
    **{name: f"--balanced_head={name}" for name, entry in BALANCED_HEADS.items() if entry},
}


class Refusal(NamedTuple):
    """Two settings that cannot be combined, as flags, and why."""

    one: str
    other: str
    reason: str

    def __str__(self) -> str:
        return f"{self.one} does not go with {self.other}: {self.reason}"


def check(settings: Settings) -> None:
    """Refuses flags that cannot be combined.

    Args:
        settings: Those of the command line.

    Raises:
        ValueError: With the two flags and the reason.
    """
    refuse(
        [
            *of_two_balances(balances_of(settings)),
            *(of_generations(settings.pseudo_labeler) if settings.open_set else ()),
            *of_twins(settings),
            *of_device_data(settings),
            *of_workers(settings),
        ]
    )


def refuse(found: Iterable[Refusal]) -> None:
    """Raises a ValueError with the first refusal, if there is one."""
    for refusal in found:
        raise ValueError(f"{refusal}. Leave one of them out, or choose another.")


def balances_of(settings: Settings) -> list[str]:
    """Returns the keys of `BALANCES` that settings ask for."""
    asked = {
        "logit_adjustment": settings.logit_adjustment > 0,
        "test_logit_adjustment": settings.test_logit_adjustment > 0,
        settings.supervised_loss: True,
        settings.balanced_head: True,
    }
    return [name for name in BALANCES if asked.get(name)]


def of_two_balances(balances: Sequence[str]) -> Iterator[Refusal]:
    """Yields each pair of what counters the imbalance.

    Args:
        balances: Keys of `BALANCES`.
    """
    for one, other in itertools.combinations(balances, 2):
        reason = "each counters the imbalance of the labeled images; both would counter it twice"
        yield Refusal(BALANCES[one], BALANCES[other], reason)


def of_generations(pseudo_labeler: str) -> Iterator[Refusal]:
    """Yields self-training with an open set."""
    if pseudo_labeler in SELF_TRAINING:
        reason = "its generations would take images of no class for labeled ones"
        yield Refusal("--open_set", f"--pseudo_labeler={pseudo_labeler}", reason)


def of_twins(settings: Settings) -> Iterator[Refusal]:
    """Yields what does not go with the twin, or asks for that of a run that is the twin itself."""
    if settings.open_set and settings.answer != "run":
        reason = "the twin does not tell images of no class"
        yield Refusal("--open_set", f"--answer={settings.answer}", reason)
    if uses_unlabeled_images(settings):
        return
    reason = "it is the twin: it learns from the labeled images alone"
    for asked, flag in (
        (settings.answer in ("labels_only", "auto"), f"--answer={settings.answer}"),
        (settings.compare_labels_only, "--compare_labels_only"),
    ):
        if asked:
            yield Refusal(flag, f"--learner={settings.learner}", reason)


def of_device_data(settings: Settings) -> Iterator[Refusal]:
    """Yields what does not go with training images that stay on the device."""
    if not settings.device_data:
        return
    if settings.strategy != "none":
        reason = "the images of a batch are on one device"
        yield Refusal("--device_data", f"--strategy={settings.strategy}", reason)
    if settings.stream == "true":
        reason = "images that are read when they are needed do not stay on the device"
        yield Refusal("--device_data", "--stream=true", reason)
    if settings.freeze_encoder:
        reason = "steps take the rows of a feature bank, and no images"
        yield Refusal("--device_data", "--freeze_encoder", reason)


def of_workers(settings: Settings) -> Iterator[Refusal]:
    """Yields what each worker of a run would choose for itself."""
    if settings.strategy == "multi_worker" and settings.mixed_precision == "auto":
        reason = "each worker would choose for itself"
        yield Refusal("--strategy=multi_worker", "--mixed_precision=auto", reason)
