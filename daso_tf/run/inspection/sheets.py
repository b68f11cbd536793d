"""Contact sheets: the pictures of a run that are worth a look, each list with its CSV file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from daso_tf.data.copies import Copy
from daso_tf.run.inspection.folds import OutOfFold
from daso_tf.run.inspection.pictures import Pictures, Thumbnails, link_to
from daso_tf.run.inspection.rows import write_csv
from daso_tf.run.inspection.tables import Seen

FOLDER = "report"  # of the CSV files, in the folder of the run
_MOST_LISTED = 500  # in a CSV file
_MOST_SHOWN = 36  # on the page, of a list
_MOST_OF_CLASSES = 480  # on the page, of all classes together
_MOST_OF_CLASS = 8


class Shown(NamedTuple):
    """A picture on a sheet.

    Attributes:
        name: Its path.
        link: The address of its file; None where there is none.
        thumbnail: A data URI; None where there is none.
        caption: A line or two.
    """

    name: str
    link: str | None
    thumbnail: str | None
    caption: str


_HAS_LEARNED = "The network itself has learned these labels, so some wrong ones are not found. "


class Sheet(NamedTuple):
    """A contact sheet.

    Attributes:
        title: Its heading.
        text: What it shows.
        csv: The address of its list.
        listed: Number of pictures in the list.
        groups: Pairs of a heading, empty for the whole sheet, and the pictures shown.
    """

    title: str
    text: str
    csv: str
    listed: int
    groups: list[tuple[str, list[Shown]]]


class Sheets:
    """Makes the sheets of a run. The unlabeled pictures are those that were `Seen`, in that order.

    Args:
        folder: The folder of the run; the lists are written to its subfolder `report`.
        class_names: K names.
        thumbnails: Makes the thumbnails of all sheets together.
    """

    def __init__(self, folder: Path, class_names: Sequence[str], thumbnails: Thumbnails):
        self.folder = folder
        self.class_names = class_names
        self.thumbnails = thumbnails
        (folder / FOLDER).mkdir(exist_ok=True)

    def suspected_labels(
        self, labeled: Pictures, suspected: np.ndarray, out_of_fold: OutOfFold, is_frozen: bool
    ) -> Sheet:
        """Returns the labeled pictures whose label seems wrong, the clearest first.

        Args:
            labeled: The labeled pictures.
            suspected: int `(L,)`, the class that each seems to be of; -1 for that of its label.
            out_of_fold: The predictions.
            is_frozen: Whether they are from features of a frozen encoder.
        """
        rows = np.arange(len(labeled))
        given = out_of_fold.probabilities[rows, labeled.labels]
        other = out_of_fold.probabilities[rows, suspected]
        places = np.flatnonzero(suspected >= 0)
        places = places[np.argsort((given - other)[places], kind="stable")]

        def row(place: int) -> dict[str, Any]:
            return {
                "path": labeled.names[place],
                "label": self.class_names[labeled.labels[place]],
                "seems": self.class_names[suspected[place]],
                "label_probability": float(given[place]),
                "seems_probability": float(other[place]),
            }

        return self._sheet(
            "suspected_labels",
            "Suspected wrong labels",
            "Labeled pictures that look like another class to a linear head on the features of the "
            f"{'frozen encoder' if is_frozen else 'network'}, which was fitted to the other "
            f"pictures. {'' if is_frozen else _HAS_LEARNED}A person must decide.",
            labeled,
            row,
            lambda row: f"{row['label']} → {row['seems']} ({_percent(row['seems_probability'])})",
            {"": places},
        )

    def most_confident(self, unlabeled: Pictures, seen: Seen) -> Sheet:
        """Returns the unlabeled pictures that are the most certain ones of each class."""
        groups = {}
        shown = max(1, min(_MOST_OF_CLASS, _MOST_OF_CLASSES // len(self.class_names)))
        for k, name in enumerate(self.class_names[:_MOST_OF_CLASSES]):
            members = np.flatnonzero(seen.classes == k)
            groups[name] = members[np.argsort(-seen.confidence[members], kind="stable")][:shown]
        return self._sheet(
            "most_confident",
            "Most confident of each class",
            "Unlabeled pictures that the network is most sure of. Mistakes here are taught as if "
            "they were right.",
            unlabeled,
            self._row_of(unlabeled, seen),
            lambda row: _percent(row["confidence"]),
            groups,
        )

    def least_confident(self, unlabeled: Pictures, seen: Seen) -> Sheet:
        """Returns the unlabeled pictures that the network is least sure of."""
        return self._sheet(
            "least_confident",
            "Least confident",
            "Unlabeled pictures that the network is least sure of. Their labels teach it most.",
            unlabeled,
            self._row_of(unlabeled, seen),
            lambda row: f"{row['class']}? {_percent(row['confidence'])}",
            {"": np.argsort(seen.confidence, kind="stable")},
        )

    def most_unknown(self, unlabeled: Pictures, seen: Seen) -> Sheet:
        """Returns the unlabeled pictures that look like none of the classes."""
        return self._sheet(
            "most_unknown",
            "Most likely of no class",
            "Unlabeled pictures that look least like any class. Pictures of other things should "
            "not be among the unlabeled pictures.",
            unlabeled,
            self._row_of(unlabeled, seen),
            lambda row: f"{row['class']}? score {row['unknown_score']:.2f}",
            {"": np.argsort(-seen.unknown, kind="stable")},
        )

    def near_copies(self, copies: Sequence[Copy], root: str) -> Sheet:
        """Returns the pictures that are copies of pictures of another part.

        Args:
            copies: Those of other parts.
            root: The folder of the data, to which the paths in the list are relative.
        """

        def row(copy: Copy) -> dict[str, Any]:
            known = [
                self.class_names[k] if k >= 0 else None for k in (copy.label, copy.original_label)
            ]
            return {
                "kind": "identical" if copy.identical else "near",
                "part": copy.part,
                "path": copy.name.removeprefix(root),
                "class": known[0],
                "copy_of_part": copy.original_part,
                "copy_of": copy.original_name.removeprefix(root),
                "copy_of_class": known[1],
            }

        rows = list(map(row, copies))
        columns = ("kind", "part", "path", "class", "copy_of_part", "copy_of", "copy_of_class")
        write_csv(self._csv("near_copies"), columns, rows)
        shown = []
        for copy, of in zip(copies[: _MOST_SHOWN // 2], rows, strict=False):
            for file, name, caption in (
                (copy.name, of["path"], f"{of['part']}, {of['kind']} copy of"),
                (copy.original_name, of["copy_of"], f"{of['copy_of_part']}"),
            ):
                shown.append(
                    Shown(name, link_to(file, self.folder), self.thumbnails(file), caption)
                )
        return Sheet(
            "Copies across parts",
            "Each picture that is a copy of a picture of another part, then that picture. A test "
            "picture that is also a training picture makes the results look better than they are.",
            f"{FOLDER}/near_copies.csv",
            len(rows),
            [("", shown)] if shown else [],
        )

    def _row_of(self, unlabeled: Pictures, seen: Seen) -> Callable[[int], dict[str, Any]]:
        def row(place: int) -> dict[str, Any]:
            return {
                "path": unlabeled.names[place],
                "class": self.class_names[seen.classes[place]],
                "confidence": float(seen.confidence[place]),
                "unknown_score": float(seen.unknown[place]),
            }

        return row

    def _sheet(
        self,
        name: str,
        title: str,
        text: str,
        pictures: Pictures,
        row_of: Callable[[int], dict[str, Any]],
        caption_of: Callable[[Mapping[str, Any]], str],
        groups: Mapping[str, np.ndarray],
    ) -> Sheet:
        """Writes the list of a sheet, and shows the first pictures of each group."""
        listed = [place for places in groups.values() for place in places[:_MOST_LISTED].tolist()]
        rows = {place: row_of(place) for place in listed}
        columns = list(row_of(listed[0])) if listed else ["path"]
        write_csv(self._csv(name), columns, rows.values())
        shown = {
            heading: list(self._shown(places[:_MOST_SHOWN].tolist(), pictures, rows, caption_of))
            for heading, places in groups.items()
        }
        return Sheet(
            title, text, f"{FOLDER}/{name}.csv", len(listed), [g for g in shown.items() if g[1]]
        )

    def _shown(
        self,
        places: Sequence[int],
        pictures: Pictures,
        rows: Mapping[int, Mapping[str, Any]],
        caption_of: Callable[[Mapping[str, Any]], str],
    ) -> Iterator[Shown]:
        for place in places:
            source = pictures.source(place)
            yield Shown(
                pictures.names[place],
                link_to(source, self.folder),
                self.thumbnails(source),
                caption_of(rows[place]),
            )

    def _csv(self, name: str) -> Path:
        return self.folder / FOLDER / f"{name}.csv"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
