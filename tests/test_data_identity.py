"""A run belongs to its data: what identifies it, what is refused, and what can be adopted."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command import SMALL, completed, run_train
from PIL import Image
from test_data_archives import cifar10_files, pack
from test_data_benchmarks import (
    TEN_NAMES,
    cifar_features,
    own_features,
    random_images,
    write_prepared,
)
from test_data_semi_aves import write_tree

from daso_tf import data
from daso_tf.data.identity import identify
from daso_tf.run.data_file import UnlabeledImages
from daso_tf.run.generations import Generation, PseudoLabeledImages
from daso_tf.run.results import Results

CLASSES = ("ant", "bee", "cat")
UNLABELED = 16


def write_image(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def write_pictures(root, prefix=""):
    """Writes a folder of images: 3 labeled, 2 test and 2 validation images of each class."""
    seed = len(prefix)
    for part, count in (("train", 3), ("test", 2), ("validation", 2)):
        for name in CLASSES:
            for i in range(count):
                write_image(root / part / name / f"{prefix}{i}.png", seed := seed + 1)
    for i in range(UNLABELED):
        write_image(root / "unlabeled" / f"{prefix}{i:02d}.png", seed := seed + 1)


def command(model_dir, data_dir, *more, **settings):
    """The command line of a run on a folder of images; FlexMatch remembers every image."""
    of_digits = ("head", "imbalance", "validation_size", "dataset")
    small = {name: value for name, value in SMALL.items() if not name.endswith(of_digits)}
    values = {
        **small,
        "dataset": "image_folder",
        "pretrain_steps": 1,
        "data_dir": data_dir,
        "model_dir": model_dir,
        "batch_size": 4,
        "threshold": "flexmatch",
        "steps": 2,
        "evaluate_every": 500,
        **settings,
    }
    return [*(f"--{name}={value}" for name, value in values.items() if value is not None), *more]


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """A folder with a finished run of two steps, `run`, and its data, `pictures`."""
    folder = tmp_path_factory.mktemp("started")
    write_pictures(folder / "pictures")
    with contextlib.redirect_stdout(io.StringIO()):
        assert run_train(*command(folder / "run", folder / "pictures")) == 0
    return folder


@pytest.fixture
def copied(started, tmp_path):
    """A copy, which a test may change."""
    shutil.copytree(started, tmp_path / "copy")
    return tmp_path / "copy"


def train(folder, *more, **settings):
    data_dir = settings.pop("data_dir", folder / "pictures")
    return run_train(*command(folder / "run", data_dir, *more, **settings))


def rename_a_class(pictures):
    for part in ("train", "test", "validation"):
        (pictures / part / "ant").rename(pictures / part / "wasp")


def add_a_class(pictures):
    write_image(pictures / "train" / "dog" / "0.png", 100)


def remove_a_class(pictures):
    for part in ("train", "test", "validation"):
        shutil.rmtree(pictures / part / "bee")


def replace_everything(pictures):
    shutil.rmtree(pictures)
    write_pictures(pictures, prefix="other")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (rename_a_class, ["class 'ant' is called 'wasp' now"]),
        (add_a_class, ["class 'dog' is new"]),
        (remove_a_class, ["class 'bee' is gone"]),
        (
            lambda pictures: write_image(pictures / "train/bee/9.png", 100),
            ["labeled: 1 image more ('train/bee/9.png'), class 'bee': 3 there, 4 now"],
        ),
        (
            lambda pictures: (pictures / "test/cat/1.png").unlink(),
            ["test: 1 image fewer ('test/cat/1.png'), class 'cat': 2 there, 1 now"],
        ),
        (
            lambda pictures: Image.new("RGB", (8, 8)).save(pictures / "validation/ant/0.png"),
            ["validation: 1 image of another size ('validation/ant/0.png')"],
        ),
        (
            lambda pictures: shutil.rmtree(pictures / "validation"),
            ["validation: 6 images there, 0 now"],
        ),
        (
            lambda pictures: (pictures / "test/ant/0.png").rename(pictures / "test/bee/7.png"),
            ["class 'ant': 2 there, 1 now, class 'bee': 2 there, 3 now"],
        ),
        (
            replace_everything,
            ["labeled: 9 images more ('train/ant/other0.png', ", "unlabeled: 16 images more"],
        ),
    ],
)
def test_other_classes_and_labeled_or_evaluated_images_are_refused(copied, capsys, change, said):
    before = (copied / "run" / "results.json").read_bytes()
    change(copied / "pictures")
    for adopt in ([], ["--adopt_data"]):
        assert train(copied, *adopt, steps=3) == 2
        message = capsys.readouterr().err
        assert f"{copied / 'run'} was trained on other data (" in message
        for text in said:
            assert text in message
        assert "--adopt_data" not in message and "Traceback" not in message
    assert (copied / "run" / "results.json").read_bytes() == before


def test_moved_folder_with_the_same_content_continues(copied, capsys):
    (copied / "pictures").rename(copied / "moved")
    assert train(copied, data_dir=copied / "moved") == 0
    assert "finished" in capsys.readouterr().out


def adopted(pictures):
    """Removes two unlabeled images, adds three and changes one."""
    for name in ("03", "07"):
        (pictures / "unlabeled" / f"{name}.png").unlink()
    for name in ("00a", "05a", "99"):
        write_image(pictures / "unlabeled" / f"{name}.png", 300 + len(name))
    Image.new("RGB", (8, 8)).save(pictures / "unlabeled" / "10.png")


def memory(model_dir, step, count):
    """The remembered pseudo-labels, the only whole numbers with one entry per image."""
    with np.load(model_dir / "checkpoints" / f"step_{step:08d}.npz") as file:
        arrays = [file[name] for name in file.files if name.startswith("memory/")]
    (found,) = [array for array in arrays if array.shape == (count,) and array.dtype == np.int32]
    return found


def test_other_unlabeled_images_are_adopted_on_request(copied, capsys):
    run, pictures = copied / "run", copied / "pictures"
    adopted(pictures)
    assert train(copied, steps=3) == 2
    message = capsys.readouterr().err
    assert "unlabeled: 3 images more ('unlabeled/00a.png', 'unlabeled/05a.png'," in message
    assert "2 images fewer ('unlabeled/03.png', 'unlabeled/07.png')" in message
    assert "1 image of another size ('unlabeled/10.png')" in message
    assert "--adopt_data continues it with the present unlabeled images" in message

    # Adopted without a new checkpoint, as if the process was killed; then continued.
    assert train(copied, "--adopt_data") == 0
    assert "continues with other unlabeled images (--adopt_data): unlabeled: 3 images more" in (
        capsys.readouterr().out
    )
    assert train(copied, steps=3) == 0
    before, after = memory(run, 2, UNLABELED), memory(run, 3, UNLABELED + 1)
    assert (before < len(CLASSES)).any()
    names = sorted(path.stem for path in (pictures / "unlabeled").iterdir())
    # One step sees 8 images. The others have what they had; new ones have no pseudo-label.
    expected = np.array([before[int(n)] if n.isdigit() and n < "16" else 3 for n in names])
    expected[names.index("10")] = 3
    assert (after == expected).sum() >= len(names) - 8
    listed = json.loads((run / "data.json").read_text())
    assert [part["images"] for part in listed["earlier_unlabeled"]] == [UNLABELED]
    assert listed["unlabeled"]["images"] == UNLABELED + 1


def test_a_generation_keeps_its_pseudo_labeled_images(tmp_path):
    def loaded(names):
        pictures = np.stack([np.full((2, 2, 3), ord(name), np.uint8) for name in names])
        return data.from_arrays(np.zeros((2, 2, 2, 3), np.uint8), [0, 1], pictures)

    def unlabeled(names, *earlier):
        parts = [identify(loaded(of)).parts["unlabeled"] for of in (names, *earlier)]
        return UnlabeledImages(parts[0], parts[1:])

    second = Generation(1, length=2, steps=4)
    probabilities = np.array([[0.1, 0.9], [0.9, 0.1], [0.2, 0.8]])
    images = PseudoLabeledImages(tmp_path, unlabeled("abc"))
    images.choose(second, lambda _: probabilities, loaded("abc"), alpha=3.0)
    labels = images.added_to(loaded("abc"), second).labeled.labels
    moved = PseudoLabeledImages(tmp_path, unlabeled("xcbaz", "abc"))
    extended = moved.added_to(loaded("xcbaz"), second).labeled
    assert [chr(image[0, 0, 0]) for image in extended.images[2:]] == ["a", "b", "c"]
    np.testing.assert_array_equal(extended.labels, labels)
    without = PseudoLabeledImages(tmp_path, unlabeled("bc", "abc"))
    with pytest.raises(ValueError, match="1 of the 3 unlabeled images that generation 1 learns"):
        without.added_to(loaded("bc"), second)


def test_a_run_without_a_record_gets_the_present_data(copied, capsys):
    (copied / "run" / "data.json").unlink()
    assert train(copied) == 0
    assert "has no record of its data yet" in capsys.readouterr().out
    assert train(copied) == 0
    assert "no record" not in capsys.readouterr().out

    # Its results.json still says which classes it has.
    (copied / "run" / "data.json").unlink()
    rename_a_class(copied / "pictures")
    assert train(copied) == 2
    assert "classes: ['ant', 'bee', 'cat'] there, ['bee', 'cat', 'wasp'] now" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: "{",
        lambda content: "[]",
        lambda content: json.dumps({**content, "labeled": 3}),
        lambda content: json.dumps({**content, "mean": ["a", 0, 0]}),
        lambda content: json.dumps({**content, "test": {**content["test"], "sizes": []}}),
        lambda content: json.dumps({key: content[key] for key in content if key != "unlabeled"}),
        lambda content: json.dumps({**content, "version": 99}),
    ],
)
def test_a_damaged_record_is_one_line(copied, capsys, spoil):
    path = copied / "run" / "data.json"
    path.write_text(spoil(json.loads(path.read_text())))
    assert train(copied) == 2
    message = capsys.readouterr().err
    assert str(path) in message and "Traceback" not in message and message.count("\n") == 1


def test_results_never_mix_evaluations_of_different_data(tmp_path):
    def results(fingerprint):
        return Results(tmp_path / "results.json", ["a", "b"], np.array([1, 1]), None, fingerprint)

    first = results("one")
    first.add({"step": 5, "pseudo_labels": {}})
    other = results("other")
    with pytest.raises(ValueError, match=r"results\.json has evaluations of other data"):
        other.forget_after(5)
    new = results("other")
    new.forget_after(0)  # a new run, which starts without them
    assert new.evaluations == []
    same = results("one")
    same.forget_after(5)
    assert [entry["step"] for entry in same.evaluations] == [5]


def test_streamed_and_read_images_are_the_same(started):
    of = [
        identify(
            data.load("image_folder", data_dir=started / "pictures", resolution=8, stream=stream),
            started / "pictures",
        )
        for stream in (True, False)
    ]
    assert of[0] == of[1]
    assert of[0].parts["unlabeled"].names[:2] == ("unlabeled/00.png", "unlabeled/01.png")
    size = (started / "pictures/train/ant/0.png").stat().st_size
    assert of[0].parts["labeled"].keys[0] == ("train/ant/0.png", size)


def test_a_file_that_is_left_out_is_not_part_of_the_data(copied):
    (copied / "pictures/unlabeled/04.png").write_bytes(b"no image")
    loaded = data.load("image_folder", data_dir=copied / "pictures", resolution=8)
    part = identify(loaded, copied / "pictures").parts["unlabeled"]
    assert len(part) == UNLABELED - 1
    assert "unlabeled/04.png" not in part.names


@pytest.mark.parametrize("source", ["semi_aves", "archive", "cifar10 of tfds", "any of tfds"])
def test_every_source_says_what_it_is_made_of(tmp_path, source):
    place, moved = tmp_path / "place", tmp_path / "moved"
    place.mkdir()
    splits = {"train": random_images(100, 32, 10, 0), "test": random_images(20, 32, 10, 1)}
    name, options = "cifar10", {"labeled_head": 2, "unlabeled_head": 3}
    if source == "semi_aves":
        write_tree(place)
        name, options = "semi_aves", {"resolution": 8, "stream": True}
    elif source == "archive":
        pack(cifar10_files(*splits.values()), place, "cifar10")
    elif source == "cifar10 of tfds":
        write_prepared(place, "cifar10", "3.0.2", splits, cifar_features(TEN_NAMES))
    else:
        own = {"train": random_images(12, 10, 2, 0), "test": random_images(4, 10, 2, 1)}
        write_prepared(place, "own_set", "1.0.0", own, own_features())
        name, options = "tfds:own_set", {**options, "resolution": 8}
    here = identify(data.load(name, data_dir=place, **options), place)
    place.rename(moved)
    loaded = data.load(name, data_dir=moved, **options)
    assert identify(loaded, moved) == here
    assert here.class_names == loaded.class_names
    for part in ("labeled", "unlabeled", "test"):
        assert len(here.parts[part]) == len(getattr(loaded, part))
        assert not any(str(tmp_path) in name for name in here.parts[part].names)


def test_other_pixels_are_other_images():
    pictures = np.arange(6 * 12, dtype=np.uint8).reshape(6, 2, 2, 3)
    one = identify(data.from_arrays(pictures[:2], [0, 1], pictures[2:]))
    pictures = pictures.copy()
    pictures[5] += 1
    other = identify(data.from_arrays(pictures[:2], [0, 1], pictures[2:]))
    assert one.parts["labeled"] == other.parts["labeled"]
    assert one.parts["unlabeled"].positions_of(other.parts["unlabeled"]).tolist() == [0, 1, 2, -1]


def test_the_default_folder_of_a_run_is_named_after_the_data(tmp_path, monkeypatch):
    def model_dir(*flags):
        return completed("--dataset=image_folder", *flags).model_dir

    monkeypatch.chdir(tmp_path)
    for name in ("cats", "other/cats", "dogs"):
        Path(name).mkdir(parents=True)
    assert model_dir("--data_dir=cats") == model_dir("--data_dir=./cats/") == "runs/cats"
    assert model_dir("--data_dir=dogs") == "runs/dogs"
    assert model_dir() == "runs/image_folder"
    assert completed("--dataset=digits").model_dir == "runs/digits"

    # A run of an earlier version keeps its name for the same data, also where that was moved.
    Path("runs/image_folder").mkdir(parents=True)
    Path("runs/image_folder/flags.cfg").write_text("--data_dir=cats\n--seed=0\n")
    assert model_dir("--data_dir=cats") == "runs/image_folder"
    assert model_dir(f"--data_dir={tmp_path / 'cats'}") == "runs/image_folder"
    assert model_dir("--data_dir=other/cats") == "runs/cats"
    assert model_dir("--data_dir=dogs") == "runs/dogs"
    Path("cats").rmdir()
    assert model_dir("--data_dir=other/cats") == "runs/image_folder"
    Path("runs/image_folder/flags.cfg").write_text("--seed=0\n")
    monkeypatch.chdir(tmp_path / "dogs")
    assert model_dir("--data_dir=.") == "runs/dogs"
