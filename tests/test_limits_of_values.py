"""Values that no machine can hold, and values without an effect, are refused with the reason."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from absl import flags, logging
from command import arguments, built, completed, parsed, run_train

from daso_tf.commands import SUMMARIES
from daso_tf.commands.command_lines import COMMANDS
from daso_tf.data import from_arrays
from daso_tf.run.flags_file import changes_since, continued, write_flags_file
from daso_tf.run.preparation import prepare
from daso_tf.settings import combinations, limits
from daso_tf.settings.flags import TRAIN, complete
from daso_tf.settings.settings import PRESETS, parse

ROOT = Path(__file__).parents[1]
INTEGERS = sorted(name for name, flag in TRAIN.items() if flag.define is flags.DEFINE_integer)
FLOATS = sorted(name for name, flag in TRAIN.items() if flag.define is flags.DEFINE_float)


@pytest.mark.parametrize("name", [*INTEGERS, "learning_rate_drops"])
@pytest.mark.parametrize("value", [10**30, 2**31])
def test_whole_numbers_beyond_32_bits_are_refused(name, value):
    with pytest.raises(flags.IllegalFlagValueError) as refusal:
        parsed("--dataset=digits", f"--{name}={value}")
    message = str(refusal.value)
    assert f"--{name}=" in message and ("no machine" in message or "must be a number in" in message)


@pytest.mark.parametrize("name", FLOATS)
def test_numbers_that_are_infinite_in_32_bits_are_refused(name):
    with pytest.raises(flags.IllegalFlagValueError, match=f"--{name}="):
        parsed("--dataset=digits", f"--{name}=1e39")


def test_a_list_of_steps_and_no_list_are_accepted():
    assert parsed("--learning_rate_drops=5,2147483647").learning_rate_drops == ("5", "2147483647")
    assert parsed().learning_rate_drops is None


def images(side=8):
    pixels = np.zeros((6, side, side, 3), np.uint8)
    return from_arrays(pixels[:2], [0, 1], pixels[2:])


@pytest.mark.parametrize(
    ("given", "calculation"),
    [
        (
            {"queue_size": 1_000_000_000},
            "--queue_size=1000000000 x 2 classes x 64 numbers of a feature x 4 bytes are 476.8 GiB",
        ),
        ({"batch_size": 2**31 - 1}, "--batch_size=2147483647 x 8 x 8 pixels x 3 colors x 4 bytes"),
        ({"unlabeled_ratio": 2**30}, "--unlabeled_ratio=1073741824 x 8 x 8 pixels x 3 colors"),
    ],
)
def test_what_does_not_fit_into_memory_is_refused_with_the_bytes(given, calculation, monkeypatch):
    monkeypatch.setattr(limits, "machine_memory", lambda: 64 * 2**30)
    with pytest.raises(ValueError, match=re.escape(calculation)) as refusal:
        built(images(), *arguments(**given))
    assert "this machine has 64.0 GiB" in str(refusal.value)


def test_what_is_not_used_takes_no_memory(monkeypatch):
    monkeypatch.setattr(limits, "machine_memory", lambda: 64 * 2**30)
    built(images(), *arguments(queue_size=1_000_000_000, pseudo_labeler="linear"))


def test_divisors_of_a_large_number_are_found_at_once():
    assert limits.divisors(2**31 - 1) == [1, 2**31 - 1]
    assert [limits.divisors(n) for n in (1, 2, 9)] == [[1], [1, 2], [1, 3, 9]]


@pytest.mark.parametrize(
    "given",
    [
        {"pseudo_labeler": "daso"},
        {"pseudo_labeler": "linear"},
        {"learner": "supervised", "pseudo_labeler": "linear"},
        {"learner": "remixmatch", "pseudo_labeler": "linear", "distribution_alignment": "false"},
    ],
)
def test_a_distribution_that_is_never_used_is_refused(given, tmp_path, capsys):
    command = arguments(**given, unlabeled_distribution="known", model_dir=tmp_path / "run")
    assert run_train(*command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--unlabeled_distribution=known has no effect" in line
    for user in ("distribution_alignment", "darp", "crest_plus"):
        assert f"--pseudo_labeler={user}" in line
    assert "--pseudo_labeler=crest " not in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "given",
    [
        {"pseudo_labeler": "darp"},
        {"pseudo_labeler": "distribution_alignment"},
        {"pseudo_labeler": "crest_plus"},
        {"learner": "remixmatch", "distribution_alignment": "true"},
    ],
)
def test_a_distribution_that_is_used_is_accepted(given):
    limits.check_effects(completed(*arguments(**given, unlabeled_distribution="known")))
    # The default may always be given, as the flag file of a run does.
    limits.check_effects(completed(*arguments(unlabeled_distribution="labeled")))


@pytest.mark.parametrize("learner", ["fixmatch", "usadtm"])
def test_pretraining_as_long_as_the_run_is_refused(learner, tmp_path, capsys):
    labeler = {"pseudo_labeler": "linear"} if learner == "usadtm" else {}
    command = arguments(learner=learner, steps=20, pretrain_steps=20, **labeler)
    assert run_train(*command, f"--model_dir={tmp_path / 'run'}") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--pretrain_steps=20 is not below --steps=20" in line and "--pretrain_steps=2." in line
    assert not (tmp_path / "run").exists()


def test_pretraining_that_is_not_used_may_have_any_length():
    limits.check_effects(completed(*arguments(pseudo_labeler="linear", steps=5, pretrain_steps=9)))


def without_pretraining(**settings):
    return [flag for flag in arguments(**settings) if not flag.startswith("--pretrain_steps")]


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ({"steps": 600}, 60),
        ({"steps": 5}, 0),
        ({"steps": 5000}, 500),
        ({"steps": 5001}, 5000),
        ({"steps": 400, "learner": "usadtm", "pseudo_labeler": "linear"}, 40),
        ({"steps": 600, "learner": "usadtm", "pseudo_labeler": "linear"}, 500),
        ({"steps": 600, "pseudo_labeler": "linear"}, 5000),
    ],
)
def test_a_default_shrinks_to_a_tenth_of_the_run(given, steps):
    shortened = limits.shortened(completed(*without_pretraining(**given)))
    assert shortened.pretrain_steps == steps
    limits.check_effects(shortened)


def test_a_shortened_default_is_said_and_kept_when_the_run_grows(tmp_path, caplog):
    logging.set_verbosity(logging.WARNING)
    with caplog.at_level("WARNING", logger="absl"):
        run = prepare(parsed(*without_pretraining(steps=50, model_dir=tmp_path / "run")))
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("--pretrain_steps is 5, a tenth of --steps=50, because its default of")
    assert run.learner.pseudo_labeler.get_config()["pretrain_steps"] == 5
    run.checkpoints.save(run.learner)
    caplog.clear()
    run = prepare(parsed(*without_pretraining(steps=9000, model_dir=tmp_path / "run")))
    assert run.settings.pretrain_steps == 5 and not caplog.records


def test_a_run_with_other_values_continues(tmp_path):
    """It may have been started before these values were refused."""
    old = {"steps": 9, "pretrain_steps": 5000, "unlabeled_distribution": "known", "cutout_size": 16}
    run = prepare(parsed(*arguments(model_dir=tmp_path / "run")))
    run.checkpoints.save(run.learner)
    write_flags_file(tmp_path / "run" / "flags.cfg", completed(*arguments(**old)))
    again = prepare(parsed(*arguments(**old, model_dir=tmp_path / "run")))
    assert again.settings.pretrain_steps == 5000
    # Also where the flag was not given, or the command is that of the flag file.
    path = tmp_path / "run" / "flags.cfg"
    settings = continued(path, completed(*without_pretraining(**old | {"pretrain_steps": 0})))
    assert settings.pretrain_steps == 5000
    changes = changes_since(path, settings)
    assert not (changes.settings or changes.defaults or changes.rules)


@pytest.mark.parametrize(
    ("given", "size", "side"),
    [
        ({"cutout_size": 8}, (8, 12), 8),
        ({"cutout_size": 16}, (8, 8), 8),
        ({"cutout_size": 8, "resolution": 8, "weak_view": "random_resized_crop"}, (20, 20), 8),
        ({"cutout_size": 8, "resolution": 8, "learner": "remixmatch"}, (20, 20), 8),
        ({"cutout_size": 9, "learner": "usadtm", "pseudo_labeler": "linear"}, (9, 9), 9),
    ],
)
def test_a_cutout_as_large_as_the_picture_is_refused(given, size, side):
    settings = completed(*arguments(**given))
    with pytest.raises(ValueError, match=f"--cutout_size={given['cutout_size']} would cover"):
        limits.check_cutout(settings, size)
    limits.check_cutout(settings.replace(cutout_size=side - 1), size)


def test_a_cutout_that_is_not_used_may_have_any_size():
    limits.check_cutout(completed(*arguments(learner="mixmatch", cutout_size=16)), (8, 8))
    limits.check_cutout(completed(*arguments(cutout_size=16)), (20, 20))


def test_the_command_refuses_the_default_cutout_for_small_pictures(tmp_path, capsys):
    command = [flag for flag in arguments() if not flag.startswith("--cutout_size")]
    assert run_train(*command, f"--model_dir={tmp_path / 'run'}") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--cutout_size=16" in line and "--cutout_size=4" in line
    assert not (tmp_path / "run").exists()


PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "benchmarks").glob("*.md"),
    *(ROOT / "flags").glob("*.cfg"),
    *(ROOT / "deploy").iterdir(),
]
_COMMAND = re.compile(
    r"[#\s]*(?:daso-tf |python -m daso_tf\.|python benchmarks/(?=methods))([\w-]+)(?:\.py)?(.*)"
)
# Options of benchmarks/methods.py itself; the others are those of `daso-tf train`.
_OF_METHODS = re.compile(r"--(method|seeds|jobs|output)\b")


def commands():
    """Yields every command line of training, and of the flags below one in a flag file."""
    for page in PAGES:
        # A backslash continues a command, in a flag file behind a comment sign.
        text = re.sub(r"\\\n#?", " ", page.read_text(encoding="utf-8"))
        for line in text.splitlines():
            name, rest = found.groups() if (found := _COMMAND.match(line)) else ("", "")
            if name.replace("_", "-") in SUMMARIES or name == "methods":
                words = [word for word in shlex.split(rest, comments=True) if word != "..."]
                yield pytest.param(name, words, id=f"{page.name}: {line.strip()[:60]}")
            elif page.suffix == ".cfg" and (options := re.findall(r"^#\s.*?(--.*)", line)):
                words = [f"--flagfile={page}", *options[0].split()]
                if all(word.startswith("--") and "=" in word for word in words):
                    yield pytest.param("train", words, id=f"{page.name}: {line.strip()[:60]}")


def as_given(word):
    """Returns a word of a command line with files that exist instead of placeholders."""
    name, _, path = word.partition("=")
    if name != "--flagfile":
        return word
    known = (ROOT / path).exists() or (PRESETS / path).exists()
    return (
        f"{name}={ROOT / path if (ROOT / path).exists() else path}"
        if known
        else (f"{name}={PRESETS / 'digits_lt.cfg'}")
    )


@pytest.mark.parametrize(("name", "words"), commands())
def test_every_command_of_the_documentation_still_parses(name, words):
    if name == "methods":
        name, words = "train", [word for word in words if not _OF_METHODS.match(word)]
    if name == "workers":
        name, words = "train", words[1:]
    command = COMMANDS[name.replace("_", "-")]
    accepted = [flag for flags in command.sections.values() for flag in flags]
    if not command.parses or "--help" in words:
        return
    settings, rest = parse(map(as_given, words), accepted)
    assert bool(command.usage) or not rest
    if name == "train" and settings.dataset:
        settings = complete(settings)
        combinations.check(settings)
        limits.check_effects(settings)


def test_commands_are_found():
    found = [param.values for param in commands()]
    assert len(found) > 25
    assert {name for name, _ in found} >= {"train", "predict", "describe", "methods"}
