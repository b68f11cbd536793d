"""Damaged and foreign files in the folder of a run: a line, or the checkpoint before."""

import io
import json
import os
import zipfile

import numpy as np
import pytest
from absl import logging
from command import arguments, completed
from test_resume import assert_equal, saved, small_learner, state  # noqa: F401

from daso_tf import data
from daso_tf.platform.npz import ArrayFile
from daso_tf.run.checkpoints import CheckpointError, Checkpoints
from daso_tf.run.flags_file import changes_since
from daso_tf.run.generations import Generation, PseudoLabeledImages
from daso_tf.run.report import draw, table
from daso_tf.run.results import Results


def arrays_of(path):
    with np.load(path) as file:
        return dict(file)


def header(shape, dtype="<f4"):
    """The bytes of an array that claims a shape and has no content."""
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        member, {"descr": dtype, "fortran_order": False, "shape": shape}
    )
    return member.getvalue()


def with_member(path, name, content):
    """Replaces one array of a checkpoint by bytes."""
    arrays = arrays_of(path)
    del arrays[name]
    np.savez(path, **arrays)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{name}.npy", content)


def another_dtype(path):
    arrays = arrays_of(path)
    np.savez(path, **{**arrays, "network/0000": arrays["network/0000"].astype(np.float64)})


def integers(path):
    arrays = arrays_of(path)
    np.savez(path, **{**arrays, "network/0000": arrays["network/0000"].astype(np.int32)})


def objects(path):
    arrays = arrays_of(path)
    np.savez(path, **{**arrays, "network/0000": np.array([{"a": 1}], object)})


def beyond_memory(path):
    with_member(path, "network/0000", header((2**40, 2**10)))


def beyond_memory_with_the_shape_of_the_model(path):
    with_member(path, "network/0000", header(arrays_of(path)["network/0000"].shape))


def beyond_integers(path):
    with_member(path, "network/0000", header((10**30,)))


def deeply_nested_header(path):
    text = ("(" * 9000).encode()
    with_member(path, "network/0000", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)


def a_bomb(path):
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("network/0000.npy", "w", force_zip64=True) as member,
    ):
        for _ in range(1100):
            member.write(bytes(2**20))


def not_an_array(path):
    with_member(path, "network/0000", b"hello")


def huge_version(path):
    with_member(path, "version", header((2**40,), "<i8"))


def text(path):
    path.write_text("notes of step 30\n")


def of_another_step(path):
    path.write_bytes(path.with_name("step_00000010.npz").read_bytes())


DAMAGES = [
    another_dtype,
    integers,
    objects,
    beyond_memory,
    beyond_memory_with_the_shape_of_the_model,
    beyond_integers,
    deeply_nested_header,
    a_bomb,
    not_an_array,
    huge_version,
    text,
    of_another_step,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_checkpoint_before_is_restored_with_a_line(saved, damage, caplog):  # noqa: F811
    checkpoints, states = saved
    *_, middle, newest = states
    damage(newest)
    learner = small_learner(1)
    logging.set_verbosity(logging.WARNING)
    with caplog.at_level("WARNING", logger="absl"):
        assert checkpoints.restore(learner)
    assert_equal(state(learner), states[middle])
    lines = [record.getMessage() for record in caplog.records]
    (line,) = [line for line in lines if newest.name in line]
    assert "()" not in line and "\n" not in line


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    a_bomb(tmp_path / "bomb.npz")
    with pytest.raises(ValueError, match="unpacks to 1,153,433,600"):
        ArrayFile(tmp_path / "bomb.npz")


FOREIGN = {
    "step_notes.npz": text,
    "step_5.npz": text,
    "step_00000030 (copy).npz": text,
    "step_0000000040.npz": text,
    "step_-0000040.npz": text,
    "step_00000040.npz.bak": text,
    "step_٠٠٠٠٠٠٤٠.npz": text,
    "step_00000050.npz": os.mkfifo,
    "step_00000060.npz": os.mkdir,
}


def test_foreign_files_are_neither_restored_nor_deleted(saved):  # noqa: F811
    checkpoints, states = saved
    for name, make in FOREIGN.items():
        make(checkpoints.directory / name)
    # These have the name of a checkpoint: older ones than any, and newer ones than any.
    named = [checkpoints.directory / f"step_{step:08d}.npz" for step in (1, 2, 70, 10**9, 10**10)]
    for path in named:
        text(path)
    learner = small_learner(1)
    assert checkpoints.restore(learner)
    assert_equal(state(learner), list(states.values())[-1])
    for step in (31, 32, 33):
        learner.step.assign(step)
        checkpoints.save(learner)
    kept = {path.name for path in checkpoints.directory.iterdir()}
    own = {f"step_{step:08d}.npz" for step in (31, 32, 33)}
    assert kept == own | set(FOREIGN) | {path.name for path in named}


def test_only_foreign_files_are_not_overlooked(tmp_path):
    (tmp_path / "step_00000007.npz").write_text("notes")
    with pytest.raises(CheckpointError, match="none of the 1 checkpoints"):
        Checkpoints(tmp_path).restore(small_learner(1))


def test_more_than_eight_digits_are_sorted_as_numbers(tmp_path):
    learner, checkpoints = small_learner(1), Checkpoints(tmp_path, keep=2)
    for step in (99_999_998, 99_999_999, 100_000_000, 1_000_000_000):
        learner.step.assign(step)
        checkpoints.save(learner)
    assert [path.name for path in checkpoints.paths()] == [
        "step_1000000000.npz",
        "step_100000000.npz",
    ]
    again = small_learner(2)
    assert checkpoints.restore(again) and int(again.step.numpy()) == 1_000_000_000
    assert checkpoints.newest_step() == 1_000_000_000


GOOD = {
    "step": 2,
    "test": {
        "accuracy": 0.5,
        "balanced_accuracy": 0.5,
        "recall": [0.5, None],
        "logit_adjusted": {"accuracy": 0.5, "balanced_accuracy": 0.5, "recall": [0.5, None]},
    },
    "pseudo_labels": {"final": {"recall": [None, 1.0], "precision": [0.5, 1], "assigned": [1, 2]}},
}


def results_of(path):
    return Results(path, ["ant", "bee"], [2, 1], None)


def test_results_are_read(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"evaluations": [GOOD]}))
    results = results_of(path)
    assert table(results) and results.medians()
    draw(results, tmp_path / "results.png")


OTHER_SHAPES = [
    "{",
    "null",
    "[]",
    "7",
    '{"evaluations": null}',
    '{"evaluations": {"a": 1}}',
    '{"evaluations": [1, 2]}',
    '{"evaluations": [{}]}',
    "[" * 100_000,
    *(
        json.dumps({"evaluations": [GOOD | change]})
        for change in (
            {"step": "2"},
            {"step": -1},
            {"step": 1.5},
            {"test": None},
            {"test": {}},
            {"test": GOOD["test"] | {"accuracy": "0.5"}},
            {"test": GOOD["test"] | {"accuracy": None}},
            {"test": GOOD["test"] | {"accuracy": float("nan")}},
            {"test": GOOD["test"] | {"recall": [0.5]}},
            {"test": GOOD["test"] | {"recall": "ab"}},
            {"test": GOOD["test"] | {"logit_adjusted": []}},
            {"validation": [1]},
            {"pseudo_labels": []},
            {"pseudo_labels": {"final": {"recall": [1, 1]}}},
            {"pseudo_labels": {"final": {"recall": [1, []], "precision": [1, 1]}}},
        )
    ),
]


@pytest.mark.parametrize("text", OTHER_SHAPES, ids=range(len(OTHER_SHAPES)))
def test_results_of_another_shape_are_named_in_one_line(tmp_path, text):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"results\.json is damaged \(.+\); remove it") as refusal:
        results_of(path)
    assert "\n" not in str(refusal.value)


def test_results_that_are_a_pipe_or_no_text_are_named(tmp_path):
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    os.mkfifo(tmp_path / "pipe.json")
    for name, reason in (("bytes.json", "damaged"), ("pipe.json", "not a regular file")):
        with pytest.raises(ValueError, match=rf"{name}.*{reason}"):
            results_of(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it has no --dataset"),
        (b"\xff\xfe", "utf-8"),
        (b"hello\n", "line 1 is 'hello', not --name=value"),
        (b"--dataset=digits\n--steps\n", "line 2 is '--steps', not --name=value"),
        (b"--dataset=digits\n--steps=many\n", "--steps=many"),
        (b"--dataset=digits\n--learner=none\n", "--learner=none"),
        (b"--dataset=digits\n--reverse_unlabeled=2\n", "--reverse_unlabeled=2"),
    ],
)
def test_a_damaged_flag_file_is_named_in_one_line(tmp_path, content, reason):
    path = tmp_path / "flags.cfg"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"flags\.cfg is damaged \(.*{reason}") as refusal:
        changes_since(path, completed(*arguments()))
    assert "\n" not in str(refusal.value) and "remove it" in str(refusal.value)


def test_a_flag_file_that_is_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "flags.cfg")
    with pytest.raises(ValueError, match="not a regular file"):
        changes_since(tmp_path / "flags.cfg", completed(*arguments()))


@pytest.mark.parametrize(
    "chosen",
    [
        {"positions": np.array([0, 4]), "labels": np.array([0, 1])},  # there are 4 images
        {"positions": np.array([0, -1]), "labels": np.array([0, 1])},
        {"positions": np.array([0, 1]), "labels": np.array([0, 2])},
        {"positions": np.array([0, 1]), "labels": np.array([0])},
        {"positions": np.array([0.0, 1.0]), "labels": np.array([0, 1])},
        {"positions": np.array([0, 1])},
        {"positions": np.array([{}]), "labels": np.array([0])},
    ],
)
def test_pseudo_labeled_images_that_cannot_be_are_refused(tmp_path, chosen):
    images = np.zeros((6, 8, 8, 3), np.uint8)
    parts = data.from_arrays(images[:2], [0, 1], images[2:])
    np.savez(tmp_path / "generation_1.npz", **chosen)
    with pytest.raises(ValueError, match=r"generation_1\.npz.*cannot be read"):
        PseudoLabeledImages(tmp_path).added_to(parts, Generation.at(5, 5, 10))
