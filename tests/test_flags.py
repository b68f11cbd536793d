"""Flags: the paper's values, what is refused, and files that can be given back."""

from pathlib import Path

import pytest
from absl import flags
from absl.testing import flagsaver
from command import SMALL, arguments, parsed

from daso_tf.settings.flags import FLAGS, changes_since, write_flags_file

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("batch_size", "0", "[1, inf)"),
        ("blend_weight", "1.5", "[0, 1]"),
        ("confidence_threshold", "-0.1", "[0, 1]"),
        ("confidence_threshold", "nan", "[0, 1]"),
        ("distribution_temperature", "0.0", "(0, inf)"),
        ("ema_decay", "1.0", "[0, 1)"),
        ("evaluate_every", "0", "[1, inf)"),
        ("keep_checkpoints", "1", "[2, inf)"),
        ("labeled_imbalance", "0.5", "[1, inf)"),
        ("learning_rate", "inf", "(0, inf)"),
        ("learning_rate", "nan", "(0, inf)"),
        ("momentum", "1.0", "[0, 1)"),
        ("queue_size", "-3", "[1, inf)"),
        ("resolution", "4", "[8, 1024]"),
        ("seed", "-1", "[0, 2147483647]"),
        ("steps", "0", "[1, inf)"),
        ("unlabeled_ratio", "0", "[1, inf)"),
        ("weight_decay", "-1.0", "[0, inf)"),
    ],
)
def test_number_outside_its_range_is_refused(name, value, allowed):
    with pytest.raises(flags.IllegalFlagValueError) as refusal:
        parsed("--dataset=digits", f"--{name}={value}")
    for said in (f"--{name}=", value, allowed):
        assert said in str(refusal.value)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--pseudo_labeler=saw", ("--pseudo_labeler=saw", "linear", "daso")),
        ("--learner=mixup", ("--learner=mixup", "mixmatch", "fixmatch")),
        ("--jit_compile=maybe", ("--jit_compile=maybe", "auto", "true", "false")),
        ("--steps=many", ("--steps=many",)),
    ],
)
def test_unknown_choice_is_refused(argument, said):
    with pytest.raises(flags.IllegalFlagValueError) as refusal:
        parsed("--dataset=digits", argument)
    for text in said:
        assert text in str(refusal.value)


def test_unknown_flag_is_refused():
    with pytest.raises(flags.UnrecognizedFlagError, match="batchsize"):
        parsed("--dataset=digits", "--batchsize=3")


def test_defaults_are_the_papers():
    values = parsed("--dataset=cifar10")
    paper = {
        "batch_size": 64,
        "unlabeled_ratio": 2,
        "learning_rate": 0.03,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "ema_decay": 0.999,
        "steps": 250_000,
        "evaluate_every": 500,
        "confidence_threshold": 0.95,
        "unlabeled_weight": 1.0,
        "alignment_weight": 1.0,
        "prototype_temperature": 0.05,
        "distribution_temperature": 1.5,
        "distribution_aware": True,
        "pretrain_steps": 5000,
        "distribution_period": 100,
        "queue_size": 256,
        "encoder": "wrn_28_2",
        "horizontal_flip": True,
        "cutout_size": 16,
    }
    assert {name: values[name] for name in paper} == paper


def test_readme_lists_every_flag_with_its_default():
    rows = {}
    for line in (ROOT / "README.md").read_text().splitlines():
        if line.startswith("| `"):
            name, value = line.split("|")[1:3]
            rows[name.strip(" `")] = value.strip()
    for flag in FLAGS.flags_by_module_dict()["daso_tf.flags"]:
        if flag.default is not None:
            assert flag.parser.parse(rows[flag.name]) == flag.default, flag.name
        assert flag.name in rows


@flagsaver.flagsaver
def written(path, **settings):
    FLAGS(["train", *arguments(**settings)])
    write_flags_file(path)


@flagsaver.flagsaver
def changes(path, **settings):
    FLAGS(["train", *arguments(**settings)])
    return changes_since(path)


def test_written_flags_file_is_read_back(tmp_path):
    path = tmp_path / "flags.cfg"
    settings = {"data_dir": "a folder/with = and spaces", "distribution_aware": "false", "seed": 7}
    written(path, **settings)
    lines = path.read_text().splitlines()
    assert lines == sorted(lines)
    assert parsed(f"--flagfile={path}") == parsed(*arguments(**settings))


def test_changes_name_the_flags_that_make_another_run(tmp_path):
    path = tmp_path / "flags.cfg"
    written(path)
    assert changes(path) == []
    assert changes(path, steps=9, model_dir="there", export_dir="x", jit_compile="true") == []
    assert changes(path, seed=1, reverse_unlabeled="true", encoder_weights="w.h5") == [
        "--encoder_weights: unset there, w.h5 now",
        "--reverse_unlabeled: false there, true now",
        "--seed: 0 there, 1 now",
    ]


def test_flag_that_an_older_file_lacks_had_its_default(tmp_path):
    path = tmp_path / "flags.cfg"
    path.write_text("".join(f"--{name}={value}\n" for name, value in SMALL.items()).lower())
    assert changes(path) == []
    assert changes(path, momentum=0.5) == ["--momentum: 0.9 there, 0.5 now"]
