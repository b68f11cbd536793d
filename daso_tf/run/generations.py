"""CReST: self-training in generations, each with images that the one before has labeled.

Every generation starts with new weights. Its labeled images are those of the data, and unlabeled
images with the pseudo-labels of the generation before.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from daso_tf.data import ImageFiles, Images, SemiSupervisedData, with_pseudo_labeled
from daso_tf.platform.files import write_atomically
from daso_tf.platform.npz import ArrayFile
from daso_tf.run.data_file import UnlabeledImages, as_number, as_text


@dataclasses.dataclass(frozen=True)
class Generation:
    """One generation of a run; a run without self-training is a single generation.

    Args:
        number: Its number, from 0.
        length: Steps of each generation; the last one may have fewer.
        steps: Steps of the run.

    Example:

    >>> [(g.first_step, g.last_step) for g in (Generation.at(step, 4, 10) for step in (0, 4, 9))]
    [(0, 4), (4, 8), (8, 10)]
    """

    number: int
    length: int
    steps: int

    @classmethod
    def at(cls, step: int, length: int, steps: int) -> Generation:
        """Returns the generation that trains next when `step` steps are done."""
        last = cls(0, length, steps).count - 1
        return cls(min(step // length, last), length, steps)

    @property
    def count(self) -> int:
        """Number of generations of the run."""
        return math.ceil(self.steps / self.length)

    @property
    def first_step(self) -> int:
        """Number of steps of the run that are done before it starts."""
        return self.number * self.length

    @property
    def last_step(self) -> int:
        """Number of steps of the run that are done when it ends."""
        return min(self.first_step + self.length, self.steps)


def select(
    probabilities: np.ndarray, labeled_counts: Sequence[int] | np.ndarray, alpha: float = 3.0
) -> tuple[np.ndarray, np.ndarray]:
    """Selects pseudo-labeled images, a larger fraction of them the rarer their class.

    Pseudo-labels of rare classes are few but mostly correct. Let n_r be the number of labeled
    images of the class of rank r; the most frequent class has rank 0. Of the images that are
    predicted as the class of rank r, the most confident fraction `(n_(K-1-r) / n_0) ** (1 / alpha)`
    is selected: all images of the rarest class, the smallest fraction of the most frequent one.

    Args:
        probabilities: float array of shape (M, K), predictions for the unlabeled images.
        labeled_counts: K numbers, labeled images of each class, each at least 1.
        alpha: Above 0. The larger it is, the more images of frequent classes are selected.

    Returns:
        Positions of the selected images, ascending, and their classes: two int64 arrays.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> predictions = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
    >>> positions, classes = select(predictions, labeled_counts=[8, 1], alpha=3)
    >>> positions.tolist(), classes.tolist()  # half of the first class's, all of the second's
    ([0, 2], [0, 1])

    Reference:
        Wei et al., "CReST: A Class-Rebalancing Self-Training Framework for Imbalanced
        Semi-Supervised Learning", CVPR 2021, equation 1.
    """
    counts = np.asarray(labeled_counts, np.float64)
    if not alpha > 0:
        raise ValueError(f"alpha must be above 0, not {alpha}.")
    if probabilities.ndim != 2 or probabilities.shape[1] != len(counts) or counts.min() < 1:
        raise ValueError(
            f"Predictions have shape {probabilities.shape} and labeled_counts are "
            f"{list(labeled_counts)}; they need one column and at least one image per class."
        )
    by_rank = np.argsort(-counts, kind="stable")
    rates = np.empty(len(counts))
    rates[by_rank] = (counts[by_rank[::-1]] / counts.max()) ** (1 / alpha)

    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    chosen = []
    for k, rate in enumerate(rates):
        members = np.flatnonzero(predicted == k)
        most_confident_first = members[np.argsort(-confidence[members], kind="stable")]
        # The 1e-9 keeps a whole number whole where the power function falls just below it.
        chosen.append(most_confident_first[: int(rate * len(members) + 1e-9)])
    positions = np.sort(np.concatenate(chosen))
    return positions, predicted[positions]


def alignment_temperature(generation: int, generations: int, smallest: float = 0.5) -> float:
    """Returns the temperature of CReST+'s distribution alignment, lower in each generation.

    Args:
        generation: Number of the generation, from 0.
        generations: How many there are.
        smallest: The temperature of the last one, in [0, 1]; the first has 1.

    Example:

    >>> [alignment_temperature(generation, 5) for generation in range(5)]
    [1.0, 0.875, 0.75, 0.625, 0.5]

    Reference:
        Wei et al., "CReST", CVPR 2021, section 3.3.
    """
    progress = generation / (generations - 1) if generations > 1 else 0.0
    return 1.0 - progress + progress * smallest


class PseudoLabeledImages:
    """The unlabeled images that each generation uses as labeled ones, in files.

    Args:
        folder: Folder of the files, one per generation: `generation_1.npz` and so on, with
            positions of unlabeled images and their classes.
        unlabeled: The unlabeled images of the run, now and before; None where they never change.
    """

    def __init__(self, folder: Path, unlabeled: UnlabeledImages | None = None):
        self.folder = folder
        self.unlabeled = unlabeled

    def choose(
        self,
        generation: Generation,
        predict: Callable[[Images | ImageFiles], np.ndarray],
        data: SemiSupervisedData,
        alpha: float,
        write: bool = True,
    ) -> None:
        """Selects them with the network of the generation before, and writes the file.

        Args:
            generation: The one that is about to start.
            predict: Returns the class probabilities of images, float `(N, K)`, at the end of the
                generation before.
            data: The data of the run, as loaded.
            alpha: As for `select`.
            write: Whether this process writes the file; other workers only take part in the
                prediction.
        """
        probabilities = predict(data.unlabeled)
        if not write:
            return
        positions, labels = select(probabilities, data.labeled_counts, alpha)
        path = self._path(generation)
        path.parent.mkdir(parents=True, exist_ok=True)
        chosen: dict[str, Any] = {"positions": positions, "labels": labels}
        if self.unlabeled is not None:
            chosen["unlabeled"] = as_number(self.unlabeled.fingerprint)
        write_atomically(path, lambda file: np.savez(file, **chosen))

    def added_to(self, data: SemiSupervisedData, generation: Generation) -> SemiSupervisedData:
        """Returns the data that a generation trains on.

        Args:
            data: The data of the run, as loaded.
            generation: The generation.

        Raises:
            ValueError: If the file of a generation after the first cannot be read, or images in it
                are no longer there.
        """
        if generation.number == 0:
            return data
        path = self._path(generation)
        try:
            with ArrayFile(path) as chosen:
                positions, labels = chosen["positions"], chosen["labels"]
                known = "unlabeled" in chosen.headers
                fingerprint = as_text(chosen["unlabeled"]) if known else None
            before = None if self.unlabeled is None else self.unlabeled.positions_in(fingerprint)
            if before is None:
                _check_chosen(positions, labels, data)
                return with_pseudo_labeled(data, positions, labels)
        except Exception as error:  # a damaged archive fails in many ways
            raise ValueError(
                f"{path}, the images of generation {generation.number}, cannot be read: "
                f"{error}. Remove the checkpoints after step {generation.first_step}; the same "
                "command then writes it again."
            ) from error
        now = {place: position for position, place in enumerate(before.tolist())}
        if gone := [place for place in positions.tolist() if place not in now]:
            raise ValueError(
                f"{len(gone)} of the {len(positions)} unlabeled images that generation "
                f"{generation.number} learns as labeled ones ({path}) are no longer there. Put them"
                " back; they may go when the next generation has started."
            )
        return with_pseudo_labeled(data, np.array([now[p] for p in positions.tolist()]), labels)

    def _path(self, generation: Generation) -> Path:
        return self.folder / f"generation_{generation.number}.npz"


def _check_chosen(positions: np.ndarray, labels: np.ndarray, data: SemiSupervisedData) -> None:
    limits = {"positions": (positions, len(data.unlabeled)), "labels": (labels, data.num_classes)}
    for name, (numbers, limit) in limits.items():
        whole = numbers.dtype.kind in "iu" and numbers.shape == positions.shape == labels.shape
        if not whole or numbers.ndim != 1 or (numbers < 0).any() or (numbers >= limit).any():
            raise ValueError(f"{name} are not whole numbers from 0 to {limit - 1}, one per image")
