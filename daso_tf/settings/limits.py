"""Values that no machine can hold, and values that would have no effect."""

from __future__ import annotations

import math

from daso_tf.data.memory import machine_memory
from daso_tf.data.unlabeled_distribution import ESTIMATE
from daso_tf.settings import methods
from daso_tf.settings.settings import Settings

_FLOAT = 4  # bytes


def shortened(settings: Settings) -> Settings:
    """Returns the settings of a new run with a `--pretrain_steps` below `--steps`.

    Only a default is changed: to a tenth of the run.

    Args:
        settings: Those of a training run, completed.
    """
    default = settings.pretrain_steps
    if (
        "pretrain_steps" in settings.given
        or not methods.uses(settings, methods.PRETRAIN_STEPS)
        or default < settings.steps
    ):
        return settings
    return settings.replace(pretrain_steps=settings.steps // 10)


def check_effects(settings: Settings) -> None:
    """Refuses flags that would have no effect in a new run.

    Args:
        settings: Those of a training run, completed.

    Raises:
        ValueError: With the flag and the reason.
    """
    given = "pretrain_steps" in settings.given
    too_long = given and settings.pretrain_steps >= settings.steps
    if too_long and methods.uses(settings, methods.PRETRAIN_STEPS):
        raise ValueError(
            f"--pretrain_steps={settings.pretrain_steps} is not below --steps={settings.steps}; the"
            f" run would end before the method starts. Give fewer, such as --pretrain_steps="
            f"{settings.steps // 10}."
        )
    if settings.open_set and settings.evaluate_every >= settings.steps:
        raise ValueError(
            f"--open_set has no effect with --evaluate_every={settings.evaluate_every}, which is "
            f"not below --steps={settings.steps}: each evaluation decides again what is rejected. "
            f"Evaluate more often, such as --evaluate_every={max(settings.steps // 10, 1)}."
        )
    distribution = methods.UNLABELED_DISTRIBUTION
    if settings[distribution.name] == distribution.default:
        return
    # Logit adjustment answers for an estimate.
    adjusts = settings.logit_adjustment or settings.test_logit_adjustment
    if settings[distribution.name] == ESTIMATE and adjusts:
        return
    if not methods.uses(settings, distribution):
        named = " or ".join(
            f"--pseudo_labeler={name}"
            for name, entry in methods.PSEUDO_LABELERS.items()
            if distribution in entry.flags
        )
        raise ValueError(
            f"--{distribution.name}={settings[distribution.name]} has no effect with --learner="
            f"{settings.learner} --pseudo_labeler={settings.pseudo_labeler}. Leave it out, or "
            f"choose a method that uses it: {named}, or --learner=remixmatch "
            "--distribution_alignment"
            + (
                ", or --logit_adjustment or --test_logit_adjustment, which then answer for it."
                if settings[distribution.name] == ESTIMATE
                else "."
            )
        )


def check_cutout(settings: Settings, size: tuple[int, int]) -> None:
    """Refuses a cutout that can cover the whole picture.

    Args:
        settings: Those of a new run, completed.
        size: Height and width of the images, as loaded.

    Raises:
        ValueError: With both sides.
    """
    if not methods.uses(settings, methods.CUTOUT_SIZE):
        return
    at_resolution = settings.learner == "remixmatch" or settings.weak_view == "random_resized_crop"
    side = settings.resolution if at_resolution else min(size)
    if settings.cutout_size >= side:
        where = "--resolution" if at_resolution else "images"
        raise ValueError(
            f"--cutout_size={settings.cutout_size} would cover a whole picture: strong views are "
            f"made at the side of the {where}, {side} pixels. Give a smaller one; half a side, "
            f"--cutout_size={side // 2}, is usual."
        )


def check_memory(settings: Settings, num_classes: int, num_features: int) -> None:
    """Refuses sizes that do not fit into the memory of this machine.

    Args:
        settings: Those of a training run, completed.
        num_classes: K.
        num_features: Length of a feature of the encoder.

    Raises:
        ValueError: With the flags and the bytes that they would need.
    """
    pixels = {f"{settings.resolution} x {settings.resolution} pixels": settings.resolution**2}
    colors = {"3 colors": 3}
    batch = {f"--batch_size={settings.batch_size}": settings.batch_size}
    sizes = [{**batch, **pixels, **colors}]
    if methods.uses_unlabeled_images(settings):
        ratio = {f"--unlabeled_ratio={settings.unlabeled_ratio}": settings.unlabeled_ratio}
        sizes.append({**batch, **ratio, **pixels, **colors})
    if methods.uses(settings, methods.QUEUE_SIZE):
        sizes.append(
            {
                f"--queue_size={settings.queue_size}": settings.queue_size,
                f"{num_classes} classes": num_classes,
                f"{num_features} numbers of a feature": num_features,
            }
        )
    available = machine_memory()
    for factors in sizes:
        needed = math.prod(factors.values()) * _FLOAT
        if needed > available:
            raise ValueError(
                f"{' x '.join(factors)} x {_FLOAT} bytes are {needed / 2**30:,.1f} GiB, and this "
                f"machine has {available / 2**30:.1f} GiB of memory. Give smaller values."
            )


def divisors(number: int) -> list[int]:
    """Returns the divisors of a number of at least 1, ascending.

    Example:

    >>> divisors(12)
    [1, 2, 3, 4, 6, 12]
    """
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})
