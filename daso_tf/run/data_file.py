"""The data file of a run: what it was trained on, and whether it may continue with other data."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from daso_tf.data import SemiSupervisedData
from daso_tf.data.copies import Copy
from daso_tf.data.identity import PARTS, Differences, Identity, Part, compare, identify
from daso_tf.platform.files import write_atomically

NAME = "data.json"  # in the folder of a run
_VERSION = 1


def as_number(fingerprint: str) -> np.ndarray:
    """Returns a fingerprint as an array, for files that have only numbers."""
    return np.array(int(fingerprint, 16), np.uint64)


def as_text(number: np.ndarray) -> str:
    """Returns the fingerprint of such an array."""
    return f"{int(number):016x}"


class UnlabeledImages:
    """The unlabeled images of a run, now and before others were adopted.

    Checkpoints have one entry per unlabeled image, in their order. They say by a fingerprint which
    images these were.

    Args:
        now: The present ones.
        earlier: Those of earlier parts of the run, the oldest first.
    """

    def __init__(self, now: Part, earlier: Sequence[Part] = ()):
        self.now = now
        self.earlier = tuple(earlier)
        self.fingerprint = now.fingerprint

    def positions_in(self, fingerprint: str | None) -> np.ndarray | None:
        """Returns where the present images were in an earlier list.

        Args:
            fingerprint: That of the list; None stands for the oldest one, to which checkpoints
                belong that do not say it.

        Returns:
            int64 `(N,)`, -1 for a new image; None where the list is the present one.

        Raises:
            ValueError: If the run has no such list.
        """
        lists = {part.fingerprint: part for part in (*self.earlier, self.now)}
        if fingerprint is None:
            fingerprint = next(iter(lists))
        if fingerprint == self.fingerprint:
            return None
        if fingerprint in lists:
            return self.now.positions_of(lists[fingerprint])
        raise ValueError(
            f"it belongs to unlabeled images ({fingerprint}) that {NAME} does not list"
        )


class RunData(NamedTuple):
    """The data that a run continues with.

    Attributes:
        data: The present data, with the channel statistics that the run was started with.
        identity: What it consists of.
        unlabeled: Its unlabeled images, and those of earlier parts of the run.
        news: What to tell the user; nothing where nothing has changed.
        copies: The copies among all images that the run selected; None where they were not
            searched.
    """

    data: SemiSupervisedData
    identity: Identity
    unlabeled: UnlabeledImages
    news: str = ""
    copies: Sequence[Copy] | None = None

    def write(self, path: Path) -> None:
        """Writes the data file.

        Args:
            path: The file, in a folder that exists.
        """
        num_classes = self.data.num_classes
        parts = {name: _as_json(part, num_classes) for name, part in self.identity.parts.items()}
        content = {
            "version": _VERSION,
            "class_names": self.identity.class_names,
            "mean": self.data.mean,
            "std": self.data.std,
            **parts,
            "earlier_unlabeled": [_as_json(part, num_classes) for part in self.unlabeled.earlier],
        }
        text = ",\n".join(
            f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items()
        )
        write_atomically(path, lambda file: file.write(f"{{{text}}}\n".encode()))


def continue_with(
    data: SemiSupervisedData,
    data_dir: str | None,
    model_dir: Path,
    started: bool,
    adopt: bool,
) -> RunData:
    """Checks that data is what a run was trained on.

    Args:
        data: The present data.
        data_dir: Its folder.
        model_dir: The folder of the run.
        started: Whether the run has checkpoints. If not, it may have any data.
        adopt: Whether it may continue with other unlabeled images.

    Raises:
        ValueError: If the run was trained on other data. The message names the differences.
        OSError: If a file of the data is no longer there.
    """
    now, path = identify(data, data_dir), model_dir / NAME
    if not started:
        return RunData(data, now, UnlabeledImages(now.parts["unlabeled"]))
    if not path.exists():
        _check_summary(model_dir, data, adopt)
        news = (
            f"{model_dir} has no record of its data yet. From now on it belongs to the present data"
            f" ({path})."
        )
        return RunData(data, now, UnlabeledImages(now.parts["unlabeled"]), news)

    then, earlier, statistics = _read(path)
    differences, news = compare(then, now), ""
    if differences.others or (differences.unlabeled and not adopt):
        raise _other_data(model_dir, differences)
    if differences.unlabeled:
        before = then.parts["unlabeled"]
        if before.fingerprint not in [part.fingerprint for part in earlier]:
            earlier = [*earlier, before]
        news = (
            f"{model_dir} continues with other unlabeled images (--adopt_data): "
            f"{'; '.join(differences.unlabeled)}. Memories are carried over by file name; new "
            "images start as unseen."
        )
    mean, std = statistics
    data = dataclasses.replace(data, mean=mean, std=std)
    return RunData(data, now, UnlabeledImages(now.parts["unlabeled"], earlier), news)


def _other_data(model_dir: Path, differences: Differences) -> ValueError:
    found = "; ".join([*differences.others, *differences.unlabeled])
    advice = "Give the same data to continue it, or another --model_dir to start a new run."
    if not differences.others:
        advice += " --adopt_data continues it with the present unlabeled images."
    return ValueError(f"{model_dir} was trained on other data ({found}). {advice}")


def _check_summary(model_dir: Path, data: SemiSupervisedData, adopt: bool) -> None:
    """Compares data with the summary in `results.json`, all that older runs say about theirs."""
    try:
        summary = json.loads((model_dir / "results.json").read_text(encoding="utf-8"))
        names, labeled, unlabeled = (
            summary[key] for key in ("class_names", "labeled_counts", "unlabeled_counts")
        )
    except (OSError, ValueError, KeyError, TypeError):
        return  # who reads the evaluations reports it
    counts = data.unlabeled_counts
    found = Differences([], [])
    for what, there, here, of in (
        ("classes", names, list(data.class_names), found.others),
        ("labeled images by class", labeled, data.labeled_counts.tolist(), found.others),
        (
            "unlabeled images by class",
            unlabeled,
            None if counts is None else counts.tolist(),
            found.unlabeled,
        ),
    ):
        if there != here:
            of.append(f"{what}: {there} there, {here} now")
    if found.others or (found.unlabeled and not adopt):
        raise _other_data(model_dir, found)


def _as_json(part: Part, num_classes: int) -> dict[str, Any]:
    """Returns a part as the file has it, with counts and fingerprint for people who read it."""
    return {
        "fingerprint": part.fingerprint,
        "images": len(part),
        "images_by_class": part.counts(num_classes),
        **dataclasses.asdict(part),
    }


def identity_of(path: Path) -> Identity:
    """Reads what a run was trained on.

    Args:
        path: The data file.

    Raises:
        ValueError: If there is no such file, or it is damaged.
    """
    if not path.is_file():
        raise ValueError(f"{path.parent} has no {NAME}; continuing the run writes it.")
    return _read(path)[0]


def _part_of(value: dict[str, Any]) -> Part:
    names, sizes, labels = (tuple(value[name]) for name in ("names", "sizes", "labels"))
    part = Part(names, sizes, labels, bool(value["has_files"]))
    if part.fingerprint != value["fingerprint"]:
        raise ValueError("a fingerprint is wrong")
    return part


def _read(path: Path) -> tuple[Identity, list[Part], tuple[Any, Any]]:
    """Returns what a data file says: the data, earlier unlabeled images, channel statistics."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["version"]
        if version == _VERSION:
            parts = {name: _part_of(content[name]) for name in PARTS if name in content}
            identity = Identity(tuple(content["class_names"]), parts)
            if {"labeled", "unlabeled"} - parts.keys():
                raise ValueError("a part is missing")
            earlier = [_part_of(part) for part in content["earlier_unlabeled"]]
            mean, std = (tuple(map(float, content[name])) for name in ("mean", "std"))
            if len(mean) != 3 or len(std) != 3:
                raise ValueError("the channel statistics are not three numbers")
            return identity, earlier, (mean, std)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}: {error}). Remove it if you are sure that "
            "the data is that of the run; the run then gets the present data."
        ) from error
    raise ValueError(
        f"{path} has version {version!r}, this version of daso_tf reads {_VERSION}. Continue the "
        "run with the version that wrote it."
    )
