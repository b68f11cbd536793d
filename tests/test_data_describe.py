"""The description of a data set: table, sizes, picture, exit codes."""

import doctest

import numpy as np
import pytest
from PIL import Image

import daso_tf
from daso_tf import data
from daso_tf.commands import describe, terminal

DIGITS = ["--dataset=digits", "--labeled_head=20", "--labeled_imbalance=10", "--resolution=8"]


def run(*argv):
    return terminal.call(describe.COMMAND, argv)


def test_the_command_prints_counts_and_draws_a_picture(tmp_path, capsys):
    path = tmp_path / "new" / "picture.png"
    more = ["--unlabeled_head=50", "--validation_size=30", f"--picture={path}"]
    assert run(*DIGITS, *more) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines]
    assert rows[0] == ["class", "labeled", "unlabeled", "validation", "test"]
    assert rows[1] == ["0", "20", "50", "3", "36"]
    assert rows[10] == ["9", "2", "50", "3", "36"]
    assert rows[11] == ["all", "78", "500", "30", "360"]
    assert rows[12] == ["imbalance", "10.0", "1.0", "1.0", "1.0"]
    assert "All images are 8 x 8 pixels, used at 8 x 8." in lines
    with Image.open(path) as picture:
        assert len(picture.convert("L").getcolors()) > 100


def test_the_picture_is_kept_with_the_run(tmp_path):
    assert run(*DIGITS, "--unlabeled_head=50", f"--model_dir={tmp_path}/run") == 0
    with Image.open(tmp_path / "run" / "data.png") as picture:
        picture.verify()


def test_sizes_are_those_of_the_files(tmp_path, capsys):
    for k, size in enumerate([(5, 9), (20, 30), (7, 7), (6, 6)]):
        for part in ("train", "test"):
            path = tmp_path / part / "ab"[k % 2] / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", size).save(path)
    options = ["--dataset=image_folder", f"--data_dir={tmp_path}", "--resolution=8"]
    heads = ["--labeled_head=1", "--unlabeled_head=1", f"--picture={tmp_path}/x.png"]
    assert run(*options, *heads) == 0
    assert "4 sizes from 6 x 6 to 20 x 30 pixels, used at 8 x 8." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--dataset=imagenet"], "There is no data set 'imagenet'"),
        (DIGITS, "both labeled_head and unlabeled_head"),
        ([*DIGITS, "stray"], "'stray' is not a flag"),
    ],
)
def test_data_that_cannot_be_used_is_explained(tmp_path, capsys, argv, message):
    assert run(*argv, f"--model_dir={tmp_path}/run") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_many_classes_with_unknown_unlabeled_ones_and_odd_names(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (60, 6, 4, 3), np.uint8)
    names = [f"$odd_{k}^{{$" for k in range(30)]
    described = data.from_arrays(images, np.arange(60) % 30, images[:5], class_names=names)
    rows = describe.table(described).splitlines()
    assert rows[30].split() == [names[29], "2", "-", "-", "-"]
    assert rows[31].split() == ["all", "60", "5", "-", "-"]
    describe.figure(described).savefig(tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 1000


def test_docstring_example():
    outcome = doctest.testmod(describe, extraglobs={"np": np, "daso_tf": daso_tf})
    assert outcome.attempted > 0
    assert outcome.failed == 0
