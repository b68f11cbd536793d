"""Flags: the defaults, what is refused, the flag file of a run, and the immutable settings."""

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from command import SMALL, arguments, built, completed, parsed

from daso_tf.data import from_arrays
from daso_tf.run.flags_file import changes_since, write_flags_file
from daso_tf.settings.flag import number
from daso_tf.settings.flags import TRAIN, other_defaults
from daso_tf.settings.methods import Context, Entry
from daso_tf.settings.settings import PRESETS, Settings, presets

OLD = json.loads(
    (Path(__file__).parent / "data" / "saved_by_20a1ee4" / "flags.json").read_text(encoding="utf-8")
)


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
def test_number_outside_its_interval_is_refused(name, value, allowed):
    with pytest.raises(flags.IllegalFlagValueError) as refusal:
        parsed("--dataset=digits", f"--{name}={value}")
    for text in (f"--{name}=", value, allowed):
        assert text in str(refusal.value)


@pytest.mark.parametrize(
    ("argument", "texts"),
    [
        ("--pseudo_labeler=saw", ("--pseudo_labeler=saw", "linear", "daso")),
        ("--learner=mixup", ("--learner=mixup", "mixmatch", "fixmatch")),
        ("--jit_compile=maybe", ("--jit_compile=maybe", "auto", "true", "false")),
        ("--steps=many", ("--steps=many",)),
    ],
)
def test_unknown_choice_is_refused(argument, texts):
    with pytest.raises(flags.IllegalFlagValueError) as refusal:
        parsed("--dataset=digits", argument)
    for text in texts:
        assert text in str(refusal.value)


def test_unknown_flag_is_refused():
    with pytest.raises(flags.UnrecognizedFlagError, match="batchsize"):
        parsed("--dataset=digits", "--batchsize=3")


def test_defaults_are_those_of_the_paper():
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


# Flags whose default has changed to that of the published runs: the default, and those of learners.
RATIO_1 = dict.fromkeys(("pseudo_label", "mean_teacher", "mixmatch", "remixmatch"), 1)
PUBLISHED = {
    "confidence_threshold": (0.95, {"cdmad": 0.0, "usadtm": 0.85}),
    "sharpening_temperature": (0.5, {"cdmad": 1.0}),
    "distribution_alignment": (None, {}),
    "ema_decay": (0.999, {"supervised": 0.0}),
    "learning_rate": (0.03, {"supervised": 0.1}),
    "learning_rate_drops": (None, {}),
    "unlabeled_ratio": (2, RATIO_1),
    "warmup_steps": (None, {}),
}


@pytest.mark.parametrize("name", OLD)
def test_flag_of_version_0_1_accepts_the_same_values(name):
    """Flag files and scripts of that version still mean the same."""
    flag, old = TRAIN[name], OLD[name]
    default, others = PUBLISHED.get(name, (old["default"], old.get("other_defaults", {})))
    assert flag.default == default and type(flag.default) is type(default)
    assert {*flag.choices} >= {*old.get("choices", [])}
    assert flag.interval == old.get("interval", "")
    assert other_defaults(name) == others


def test_runs_may_continue_with_other_values_of_the_same_flags():
    free = {name for name, flag in TRAIN.items() if flag.free}
    before = {name for name, flag in OLD.items() if flag.get("free")}
    assert free & OLD.keys() == before | {"evaluate_every"}


def written(path, **settings):
    write_flags_file(path, completed(*arguments(**settings)))


def changes(path, **settings):
    found = changes_since(path, completed(*arguments(**settings)))
    assert not found.defaults and not found.rules
    return found.settings


def test_written_flags_file_is_read_back(tmp_path):
    path = tmp_path / "flags.cfg"
    settings = {"data_dir": "a folder/with = and spaces", "distribution_aware": "false", "seed": 7}
    settings["learning_rate_drops"] = "100,200"
    written(path, **settings)
    lines = path.read_text().splitlines()
    assert lines == ["# Rules 3", *sorted(lines[1:])]
    again = parsed(f"--flagfile={path}")
    assert again == completed(*arguments(**settings))
    assert again.learning_rate_drops == ("100", "200")


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


def test_flag_that_an_older_file_lacks_had_the_default_of_its_learner(tmp_path):
    path = tmp_path / "flags.cfg"
    lines = [f"--{name}={value}\n".lower() for name, value in SMALL.items()]
    path.write_text("".join([*lines, "--learner=mixmatch\n"]))
    assert changes(path, learner="mixmatch") == []
    assert changes(path, learner="mixmatch", unlabeled_weight=1) == [
        "--unlabeled_weight: 100.0 there, 1.0 now"
    ]


@pytest.mark.parametrize(
    ("given", "defaults", "rules"),
    [
        ({"learner": "supervised"}, ["ema_decay", "learning_rate", "learning_rate_drops",
                                     "warmup_steps"], []),
        ({"learner": "mixmatch"}, [], []),
        ({"learner": "remixmatch", "pseudo_labeler": "linear"}, [], ["separate batches"]),
        ({"learner": "usadtm", "pseudo_labeler": "linear"}, [], ["5 times the labeled images"]),
        ({"warmup_steps": 2}, [], ["warm-up starts at learning rate 0"]),
        ({"learning_rate_drops": 3}, [], ["outside the velocity"]),
        ({"learning_rate_drops": 3, "optimizer": "adam"}, [], []),
        ({"threshold": "softmatch"}, ["softmatch_alignment"], []),
        ({"balanced_head": "cossl", "pseudo_labeler": "linear"}, [], ["averaged features"]),
    ],
)  # fmt: skip
def test_what_version_0_1_computed_differently_is_listed(given, defaults, rules, tmp_path):
    path = tmp_path / "flags.cfg"
    old = {"warmup_steps": 0, "learning_rate_drops": "", "ema_decay": 0.999, "learning_rate": 0.03}
    old |= {"distribution_alignment": str(given.get("learner") == "remixmatch").lower()}
    path.write_text("".join(f"--{k}={v}\n" for k, v in (SMALL | old | given).items()).lower())
    found = changes_since(path, completed(*arguments(**given)))
    assert found.settings == []
    assert [line.split(":")[0] for line in found.defaults] == [f"--{name}" for name in defaults]
    assert len(found.rules) == len(rules)
    for line, text in zip(found.rules, rules, strict=True):
        assert text in line
    # The file that this version writes has nothing to list.
    write_flags_file(path, completed(*arguments(**given)))
    assert changes(path, **given) == []


def test_settings_cannot_be_changed():
    settings = parsed("--steps=5", "--learning_rate_drops=1,2")
    with pytest.raises(AttributeError, match=r"cannot be changed; use settings.replace\(steps="):
        settings.steps = 6
    with pytest.raises(TypeError):
        settings["steps"] = 6
    with pytest.raises(TypeError):
        settings._values["steps"] = 6
    with pytest.raises(AttributeError, match="no setting 'stepz'"):
        _ = settings.stepz
    assert isinstance(settings.learning_rate_drops, tuple)
    assert isinstance(settings.given, frozenset)
    assert settings.replace(steps=6).steps == 6
    assert settings.steps == settings["steps"] == 5


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))]
)
def test_settings_can_be_copied(copied):
    settings = parsed("--steps=5")
    again = copied(settings)
    assert again == settings and again.given == settings.given == {"steps"}


def test_two_parses_do_not_share_anything():
    assert parsed("--steps=5").steps == 5
    assert parsed("--seed=1").steps == 250_000


def test_other_defaults_leave_given_flags_as_they_are():
    settings = parsed("--unlabeled_weight=1.0", "--noreverse_unlabeled")
    assert settings.given == {"unlabeled_weight", "reverse_unlabeled"}
    defaults = {"unlabeled_weight": 50.0, "reverse_unlabeled": True, "ramp_fraction": 0.4}
    changed = settings.with_defaults(defaults)
    # Both were given with the value that is the default anyway.
    assert (changed.unlabeled_weight, changed.reverse_unlabeled) == (1.0, False)
    assert changed.ramp_fraction == 0.4
    assert changed.given == settings.given


def test_flags_in_a_flag_file_are_given(tmp_path):
    path = tmp_path / "mean_teacher.cfg"
    path.write_text("--learner=mean_teacher\n--unlabeled_weight=1.0\n")
    settings = completed(f"--flagfile={path}")
    assert (settings.unlabeled_weight, settings.ramp_fraction) == (1.0, 0.4)


@pytest.mark.parametrize("name", sorted(path.name for path in PRESETS.glob("*.cfg")))
@pytest.mark.parametrize("form", ["--flagfile={}", "-flagfile={}", "--flagfile {}"])
def test_presets_are_found_in_any_folder(name, form, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = parsed(*form.format(name).split(" "), "--seed=3")
    assert settings == parsed(f"--flagfile={PRESETS / name}", "--seed=3")
    assert settings.given > {"dataset", "seed"}
    assert presets()[name]


def test_a_file_of_the_working_directory_comes_before_the_preset_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parsed("--flagfile=digits_lt.cfg").dataset == "digits"
    Path("digits_lt.cfg").write_text("--dataset=image_folder\n--steps=3\n")
    settings = parsed("--flagfile=digits_lt.cfg")
    assert (settings.dataset, settings.steps) == ("image_folder", 3)


@pytest.mark.parametrize(
    "path", ["missing.cfg", "folder/digits_lt.cfg", "../presets/digits_lt.cfg"]
)
def test_only_the_name_of_a_preset_stands_for_it(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(flags.CantOpenFlagFileError, match=path.replace(".", r"\.")):
        parsed(f"--flagfile={path}")


def three_images():
    images = np.zeros((3, 8, 8, 3), np.uint8)
    return from_arrays(images[:2], [0, 1], images[2:])


def test_an_argument_is_filled_by_its_own_flag_only():
    """A flag that only has the name of an argument does not reach it."""

    settings = Settings({"strength": 9.0, "momentum": 9.0, "method_strength": 3.0})
    context = Context(settings, three_images(), [1, 1], 1.0, 5)
    flag = number("method_strength", 1.0, "[0, inf)", "Strength of the method.")
    name = "pseudo_labels.DebiasedPseudoLabeler"
    given, default = Entry(name, strength=flag).build(context), Entry(name).build(context)
    assert (given.strength, default.strength) == (3.0, 0.4)
    assert given.momentum == default.momentum == 0.999


def test_flags_of_one_method_do_not_reach_another():
    """`alpha` is an argument of DARP and of CReST, each with its own flag."""
    given = arguments(pseudo_labeler="darp", crest_alpha=7, darp_alpha=1.5, blend_weight=0.125)
    darp = built(three_images(), *given).pseudo_labeler
    assert darp.get_config()["alpha"] == 1.5
    daso = built(three_images(), *given, "--pseudo_labeler=daso").pseudo_labeler
    assert daso.get_config()["blend_weight"] == 0.125
