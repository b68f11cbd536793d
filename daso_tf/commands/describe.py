"""Shows what a training run would learn from: a table of classes, and a picture.

    python -m daso_tf.data.describe --flagfile=flags/digits_lt.cfg

Takes the flags of `daso_tf.train`. As a program of its own it stands above the rest of this
folder, and may use them.
"""

import dataclasses
from pathlib import Path

import numpy as np
from absl import flags
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import daso_tf.settings.flags
from daso_tf.commands import terminal
from daso_tf.data.errors import DataError
from daso_tf.data.images import ImageFiles, Images
from daso_tf.data.loading import select
from daso_tf.data.long_tail import LongTail
from daso_tf.data.semi_supervised import SemiSupervisedData

FLAGS = flags.FLAGS
MOST_CLASSES_SHOWN = 12  # in the picture, with images
IMAGES_SHOWN = 12  # of each of these classes
MOST_CLASSES_NAMED = 20  # on an axis

flags.DEFINE_string("picture", None, "PNG file to write. [default: MODEL_DIR/data.png]")


def main(argv: list[str]) -> int:
    """Prints the table and writes the picture.

    Args:
        argv: the program's name; everything else has to be a flag.

    Returns:
        The exit code: 0, or 2 where the data cannot be used.
    """
    if len(argv) > 1:
        return terminal.fail(f"{argv[1]!r} is not a flag; settings are written --name=value")
    wanted = LongTail(**{f.name: FLAGS[f.name].value for f in dataclasses.fields(LongTail)})
    try:
        selection = select(
            FLAGS.dataset,
            FLAGS.data_dir,
            wanted,
            FLAGS.seed,
            labeled=FLAGS.labeled,
            unlabeled=FLAGS.unlabeled,
        )
        # Some images are shown and all are counted, so none but those shown is read.
        data = selection.read(FLAGS.source_size, FLAGS.resolution, True, FLAGS.max_bad_files)
    except DataError as error:
        return terminal.fail(error)
    print(table(data))
    print(f"\n{_sizes(selection.sizes)} used at {_by(data.labeled.size)}.")
    path = Path(FLAGS.picture or f"{FLAGS.model_dir or f'runs/{FLAGS.dataset}'}/data.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(data, path)
    print(f"Wrote {path}")
    return 0


def table(data: SemiSupervisedData) -> str:
    """Writes how many images of each class each part has, a line a class.

    Args:
        data: any data.

    Returns:
        Lines of text. Below the classes come the sums, and the imbalance reached: the largest
        class over the smallest that has images. "-" stands for what is not known or not there.

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
    columns = [["class", *data.class_names, "all", "imbalance"]]
    for name, part in _parts(data).items():
        counts = _counts(part, data.num_classes)
        column = ["-"] * data.num_classes if counts is None else [str(count) for count in counts]
        imbalance = "-" if counts is None else f"{counts.max() / counts[counts > 0].min():.1f}"
        columns.append([name, *column, "-" if part is None else str(len(part)), imbalance])
    widths = [max(map(len, column)) for column in columns]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
        for row in zip(*columns, strict=True)
    )


def draw(data: SemiSupervisedData, path: str | Path) -> None:
    """Draws the class distribution and images of some classes, as a PNG.

    Args:
        data: any data.
        path: the PNG file to write.
    """
    figure = Figure(figsize=(12, 9), layout="constrained")
    FigureCanvasAgg(figure)
    bars, images = figure.subplots(2, 1, height_ratios=(1, 2))
    _draw_counts(bars, data)
    _draw_images(images, data)
    figure.savefig(path, dpi=100)


def _draw_counts(axes, data: SemiSupervisedData) -> None:
    known = {name: _counts(part, data.num_classes) for name, part in _parts(data).items()}
    known = {name: counts for name, counts in known.items() if counts is not None}
    classes, width = np.arange(data.num_classes), 0.8 / len(known)
    for index, (name, counts) in enumerate(known.items()):
        axes.bar(classes + (index - (len(known) - 1) / 2) * width, counts, width, label=name)
    axes.set(title="Images of each class", xlabel="class", yscale="log")
    axes.set_ylim(bottom=0.8)  # one image still shows
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    if data.num_classes <= MOST_CLASSES_NAMED:
        axes.set_xticks(classes, data.class_names, fontsize=8, parse_math=False)


def _draw_images(axes, data: SemiSupervisedData) -> None:
    """A row of labeled images for each class shown, and one of unlabeled images."""
    height, width = data.labeled.size
    rows = min(data.num_classes, MOST_CLASSES_SHOWN)
    shown = np.linspace(0, data.num_classes - 1, rows).round().astype(int)
    members = [np.flatnonzero(data.labeled.labels == k) for k in shown]
    row_images = [data.labeled.take(at[:IMAGES_SHOWN]) for at in members]
    spread = np.linspace(0, len(data.unlabeled) - 1, min(IMAGES_SHOWN, len(data.unlabeled)))
    row_images.append(data.unlabeled.take(spread.astype(int)))
    sheet = np.full((len(row_images) * height, IMAGES_SHOWN * width, 3), 255, np.uint8)
    for row, pictures in enumerate(row_images):
        top = row * height
        sheet[top : top + height, : len(pictures) * width] = np.hstack(pictures)
    axes.imshow(sheet, interpolation="nearest")
    names = [*(data.class_names[k] for k in shown), "unlabeled"]
    axes.set_yticks((np.arange(len(names)) + 0.5) * height, names, fontsize=8, parse_math=False)
    axes.set(title="Labeled images by class, unlabeled images", xticks=[])


def _parts(data: SemiSupervisedData) -> dict[str, Images | ImageFiles | None]:
    return {name: getattr(data, name) for name in ("labeled", "unlabeled", "validation", "test")}


def _counts(part: Images | ImageFiles | None, num_classes: int) -> np.ndarray | None:
    """Images of each class, or None where the part is absent or has unknown classes."""
    if part is None or (part.labels < 0).any():
        return None
    return np.bincount(part.labels, minlength=num_classes)


def _sizes(sizes: set[tuple[int, int]]) -> str:
    if len(sizes) == 1:
        return f"All images are {_by(*sizes)} pixels,"
    smallest, largest = (choose(sizes, key=lambda s: s[0] * s[1]) for choose in (min, max))
    return f"Images are of {len(sizes)} sizes from {_by(smallest)} to {_by(largest)} pixels,"


def _by(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]}"  # width first, as people say it
