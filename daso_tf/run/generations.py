"""Self-training by generations: each begins anew, with images that the one before has labeled."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from daso_tf.data import ImageFiles, Images, SemiSupervisedData, with_pseudo_labeled
from daso_tf.pseudo_labels import crest
from daso_tf.run.files import write_atomically


@dataclasses.dataclass(frozen=True)
class Generation:
    """One generation of a run; a run without self-training is a single one.

    Args:
        number: which one it is, from 0.
        length: steps of each generation; the last one may have fewer.
        steps: steps of the run.

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
        """How many generations the run has."""
        return math.ceil(self.steps / self.length)

    @property
    def first_step(self) -> int:
        """The steps of the run that are done before it begins."""
        return self.number * self.length

    @property
    def last_step(self) -> int:
        """The steps of the run that are done when it ends."""
        return min(self.first_step + self.length, self.steps)


class PseudoLabeledImages:
    """Files of the unlabeled images that each generation takes for labeled ones.

    Args:
        folder: where they are kept, a file a generation: `generation_1.npz` and so on, with
            positions of unlabeled images and their classes.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def choose(
        self,
        generation: Generation,
        predict: Callable[[Images | ImageFiles], np.ndarray],
        data: SemiSupervisedData,
        alpha: float,
        write: bool = True,
    ) -> None:
        """Lets the network that the generation before has trained choose them.

        Args:
            generation: the one that is to begin.
            predict: what the learner says of images at the end of the generation before.
            data: the data of the run, as loaded.
            alpha: as for `crest.select`.
            write: whether this process is the one that writes the file, not only has its part in
                the prediction.
        """
        probabilities = predict(data.unlabeled)
        if not write:
            return
        positions, labels = crest.select(probabilities, data.labeled_counts, alpha)
        path = self._path(generation)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: np.savez(file, positions=positions, labels=labels))

    def added_to(self, data: SemiSupervisedData, generation: Generation) -> SemiSupervisedData:
        """Returns the data that a generation trains on.

        Raises:
            ValueError: the file of a generation after the first cannot be read.
        """
        if generation.number == 0:
            return data
        path = self._path(generation)
        try:
            with np.load(path, allow_pickle=False) as chosen:
                return with_pseudo_labeled(data, chosen["positions"], chosen["labels"])
        except Exception as error:  # a damaged archive fails in many ways
            raise ValueError(
                f"{path} says what generation {generation.number} trains on and cannot be read: "
                f"{error}. Remove the checkpoints after step {generation.first_step}; it is then "
                "made again."
            ) from error

    def _path(self, generation: Generation) -> Path:
        return self.folder / f"generation_{generation.number}.npz"
