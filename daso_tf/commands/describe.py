"""Shows what a training run would learn from: a table of classes, and a picture.

daso-tf describe --flagfile=digits_lt.cfg
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from daso_tf.commands import copies
from daso_tf.commands.command_lines import COMMANDS
from daso_tf.data.copies import Copy
from daso_tf.data.errors import DataError
from daso_tf.data.images import ImageFiles, Images
from daso_tf.data.loading import Selection
from daso_tf.data.pools import Size
from daso_tf.data.semi_supervised import SemiSupervisedData
from daso_tf.data.text import printable
from daso_tf.platform.files import write_atomically
from daso_tf.run.report import LONGEST_NAME
from daso_tf.run.selected import selected
from daso_tf.settings import automatic
from daso_tf.settings.flags import complete
from daso_tf.settings.settings import Settings

MOST_CLASSES_SHOWN = 12  # with images, in the picture
IMAGES_SHOWN = 12  # of each of these classes
MOST_CLASSES_NAMED = 20  # on an axis


def main(settings: Settings, arguments: list[str]) -> int:
    """Prints the table and writes the picture.

    Args:
        settings: Those of a training run, and `picture`.
        arguments: There are none.

    Returns:
        The exit code.
    """
    selection = selected(settings)
    if settings.drop_copies:
        found = selection.copies()
        selection = selection.without(found)
        advice: list[str] = []
    settings, chosen = automatic.fitted(complete(settings), selection)
    # All images are counted and a few are shown. With `stream`, only those shown are read.
    data = selection.read(
        settings.source_size,
        settings.resolution,
        stream=True,
        max_bad_files=settings.max_bad_files,
    )
    print(table(data, selection.sizes))
    print(f"\n{_all_sizes(selection.sizes)} used at {_by(data.labeled.size)}.")
    print(*chosen, sep="\n")
    if not settings.drop_copies:
        found, advice = _copies(selection)
    path = Path(settings.picture or f"{settings.model_dir}/data.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    list_file = path.with_name(f"{path.stem}_copies.csv")
    copies.write(found, data.class_names, list_file)
    print(f"\n{copies.found(found, data.class_names)}", *advice, sep="\n", end="\n\n")
    drawn = figure(data, selection.sizes)
    write_atomically(
        path, lambda file: drawn.savefig(file, format=path.suffix[1:] or "png", dpi=100)
    )
    print(f"Wrote {path} and {list_file}")
    return 0


def table(data: SemiSupervisedData, sizes: Mapping[str, set[Size]] | None = None) -> str:
    """Returns a table of the number of images per class and part.

    Args:
        data: Any data.
        sizes: The sizes (height, width) of the images before they were resized, by part.

    Returns:
        Lines of text, one per class. Below them are the sums, the imbalance ratios (the largest
        class over the smallest class that has images) and, with `sizes`, width and height of the
        smallest and the largest image. "-" means that the number is not known or that there is no
        such part.

    Example:

    >>> images = np.zeros((6, 8, 8, 3), np.uint8)
    >>> data = daso_tf.data.from_arrays(images, [0, 0, 0, 0, 1, 1], images)
    >>> print(table(data))
    class      labeled  unlabeled  validation  test
    0                4          -           -     -
    1                2          -           -     -
    all              6          6           -     -
    imbalance      2.0          -           -     -
    """
    below = ["all", "imbalance", *(["smallest", "largest"] if sizes else [])]
    columns = [["class", *map(printable, data.class_names), *below]]
    for name, part in _parts(data).items():
        counts = _counts(part, data.num_classes)
        column = ["-"] * data.num_classes if counts is None else [str(count) for count in counts]
        imbalance = "-" if counts is None else f"{counts.max() / counts[counts > 0].min():.1f}"
        column += ["-" if part is None else str(len(part)), imbalance]
        if sizes:
            column += map(_by, _extremes(sizes[name])) if sizes.get(name) else ["-", "-"]
        columns.append([name, *column])
    widths = [max(map(len, column)) for column in columns]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
        for row in zip(*columns, strict=True)
    )


def figure(data: SemiSupervisedData, sizes: Mapping[str, set[Size]] | None = None) -> Figure:
    """Draws the class distribution and images of some classes.

    Args:
        data: Any data.
        sizes: The sizes (height, width) of the images before they were resized, by part.

    Returns:
        A matplotlib figure. A notebook shows it.

    Example:

    >>> images = np.zeros((6, 8, 8, 3), np.uint8)
    >>> data = daso_tf.data.from_arrays(images, [0, 0, 0, 0, 1, 1], images)
    >>> [axes.get_title() for axes in figure(data).axes]
    ['Images of each class', 'Labeled images by class, unlabeled images']
    """
    drawn = Figure(figsize=(12, 9), layout="constrained")
    FigureCanvasAgg(drawn)
    bars, images = drawn.subplots(2, 1, height_ratios=(1, 2))
    _draw_counts(bars, data, sizes or {})
    _draw_images(images, data)
    return drawn


def _copies(selection: Selection) -> tuple[list[Copy], list[str]]:
    """Returns the copies among the images, and lines of advice."""
    advice = []
    try:
        found = selection.copies()
    except DataError as error:
        found = selection.copies(near=False)
        advice.append(f"Near copies were not searched: {error}")
    if count := sum(copy.part == "unlabeled" for copy in found):
        advice.append(f"--drop_copies leaves out the unlabeled ones ({count}).")
    return found, advice


def _draw_counts(axes: Axes, data: SemiSupervisedData, sizes: Mapping[str, set[Size]]) -> None:
    """Draws a bar per class and part, and one for unlabeled images of unknown classes."""
    parts = {name: part for name, part in _parts(data).items() if part is not None and len(part)}
    counts = {name: _counts(part, data.num_classes) for name, part in parts.items()}
    known = [name for name in parts if counts[name] is not None]
    classes, width = np.arange(data.num_classes), 0.8 / len(known)
    names = [printable(name, LONGEST_NAME) for name in data.class_names]
    for name, part in parts.items():
        label = f"{name}: {len(part):,}"
        if sizes.get(name):
            label += "\n" + " to\n".join(dict.fromkeys(map(_by, _extremes(sizes[name]))))
        if name in known:
            places = classes + (known.index(name) - (len(known) - 1) / 2) * width
            axes.bar(places, np.array(counts[name]), width, label=label)
        else:
            axes.bar([data.num_classes], [len(part)], 0.8, label=label)
            names.append("unknown")
    axes.set(title="Images of each class", xlabel="class", yscale="log")
    axes.set_ylim(bottom=0.8)  # a bar of one image stays visible
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    if data.num_classes <= MOST_CLASSES_NAMED:
        axes.set_xticks(range(len(names)), names, fontsize=8, parse_math=False)


def _draw_images(axes: Axes, data: SemiSupervisedData) -> None:
    """Draws a row of labeled images per class shown, and a row of unlabeled images."""
    height, width = data.labeled.size
    rows = min(data.num_classes, MOST_CLASSES_SHOWN)
    shown = np.linspace(0, data.num_classes - 1, rows).round().astype(int)
    members = [np.flatnonzero(data.labeled.labels == k) for k in shown]
    row_images = [data.labeled.take(at[:IMAGES_SHOWN]) for at in members]
    names = [printable(data.class_names[k], LONGEST_NAME) for k in shown]
    if len(data.unlabeled):
        spread = np.linspace(0, len(data.unlabeled) - 1, min(IMAGES_SHOWN, len(data.unlabeled)))
        row_images.append(data.unlabeled.take(spread.astype(int)))
        names.append("unlabeled")
    sheet = np.full((len(row_images) * height, IMAGES_SHOWN * width, 3), 255, np.uint8)
    for row, pictures in enumerate(row_images):
        top = row * height
        sheet[top : top + height, : len(pictures) * width] = np.hstack(list(pictures))
    axes.imshow(sheet, interpolation="nearest")
    axes.set_yticks((np.arange(len(names)) + 0.5) * height, names, fontsize=8, parse_math=False)
    axes.set(title="Labeled images by class, unlabeled images", xticks=[])


def _parts(data: SemiSupervisedData) -> dict[str, Images | ImageFiles | None]:
    return {name: getattr(data, name) for name in ("labeled", "unlabeled", "validation", "test")}


def _counts(part: Images | ImageFiles | None, num_classes: int) -> np.ndarray | None:
    """Returns the images per class; None if the part is missing, empty or of unknown classes."""
    if part is None or not len(part) or (part.labels < 0).any():
        return None
    return np.bincount(part.labels, minlength=num_classes)


def _all_sizes(sizes: Mapping[str, set[Size]]) -> str:
    found = set().union(*sizes.values())
    smallest, largest = _extremes(found)
    if len(found) == 1:
        return f"All images are {_by(smallest)} pixels,"
    return f"Images have {len(found)} sizes from {_by(smallest)} to {_by(largest)} pixels,"


def _extremes(sizes: set[Size]) -> tuple[Size, Size]:
    """Returns the smallest and the largest size by area."""
    by_area = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    return by_area[0], by_area[-1]


def _by(size: Size) -> str:
    return f"{size[1]} x {size[0]}"  # width first, as people say it


COMMAND = COMMANDS["describe"]
