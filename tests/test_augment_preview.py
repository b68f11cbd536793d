"""The contact sheet and its command."""

import numpy as np
import pillow_views
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from daso_tf.augment import OPS
from daso_tf.commands import preview, terminal


@pytest.fixture
def folder(tmp_path):
    photo = Image.fromarray(load_sample_image("flower.jpg"))
    (tmp_path / "deep").mkdir()
    photo.resize((60, 40)).save(tmp_path / "a.jpg")
    photo.resize((30, 50)).convert("L").save(tmp_path / "deep" / "b.png")
    return tmp_path


def run_preview(*argv):
    return terminal.call(preview.COMMAND, list(map(str, argv)))


def times_in(sheet, view):
    """How often the sheet contains the view."""
    height, width = view.shape[:2]
    first_rows = np.lib.stride_tricks.sliding_window_view(sheet, (1, width, 3))[:, :, 0, 0]
    places = np.argwhere((first_rows == view[0]).all(axis=(2, 3)))
    return sum(np.array_equal(sheet[y : y + height, x : x + width], view) for y, x in places)


def test_writes_a_sheet_of_an_image(folder, capsys):
    output = folder / "sheet.png"
    assert run_preview(folder / "a.jpg", output, "--side=48") == 0
    assert str(output) in capsys.readouterr().out
    sheet = np.asarray(Image.open(output))
    image = preview.read_images(folder / "a.jpg", side=48)[0]
    for name, operation in OPS.items():
        magnitude = pillow_views.magnitude(name, 5, 1, (48, 32))
        view = operation(image[np.newaxis], [magnitude])[0].numpy()
        assert times_in(sheet, view) >= 1, name
    assert times_in(sheet, image) >= 3  # the identity at three levels


def test_writes_a_sheet_of_a_folder(folder):
    assert run_preview(folder, folder / "sheet.png", "--side=32") == 0
    one = preview.contact_sheet(preview.read_images(folder / "a.jpg", side=32))
    both = Image.open(folder / "sheet.png")
    assert both.width == one.width
    assert both.height > one.height


def test_the_seed_decides_the_random_views():
    image = load_sample_image("flower.jpg")[:32, :32]
    first, again, other = (preview.contact_sheet([image], seed).tobytes() for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("source", "output", "options", "message"),
    [
        ("none.jpg", "out.png", [], "there is no image or folder"),
        ("empty", "out.png", [], "has no images"),
        ("text.jpg", "out.png", [], "cannot be read as an image"),
        ("a.jpg", "out.jpg", [], "does not end in .png"),
        ("a.jpg", "none/out.png", [], "there is no folder"),
        ("a.jpg", "out.png", ["--side=4"], "--side=4: must be a number in [8, 512]"),
        ("a.jpg", "out.png", ["c.jpg"], "needs images and a picture to write"),
    ],
)
def test_bad_arguments_are_refused(folder, capsys, source, output, options, message):
    (folder / "empty").mkdir()
    (folder / "text.jpg").write_text("no image")
    assert run_preview(folder / source, folder / output, *options) == 2
    assert message in capsys.readouterr().err
    assert not (folder / output).exists()
