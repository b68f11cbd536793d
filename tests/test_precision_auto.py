"""`--mixed_precision=auto`: a short trial chooses the precision, and the run keeps it."""

import json

import pytest
from command import arguments, completed, run_train

from daso_tf.platform import cores
from daso_tf.run import precision
from daso_tf.run.precision import fastest, trial
from daso_tf.run.selected import selected
from daso_tf.settings import combinations


@pytest.fixture(scope="module")
def small_data():
    settings = completed(*arguments())
    return selected(settings).read(settings.source_size, settings.resolution, None, 0)


@pytest.fixture
def seconds(monkeypatch):
    """The result of a trial on a machine that computes in bfloat16; a test may change it."""
    found = {"none": 0.4, "bfloat16": 0.2}
    monkeypatch.setattr(cores, "computes_bfloat16", lambda: True)
    monkeypatch.setattr(precision, "trial", lambda settings, data: dict(found))
    return found


def test_a_run_keeps_the_precision_it_started_with(seconds, tmp_path, capsys):
    command = arguments(model_dir=tmp_path, steps=4, evaluate_every=4, mixed_precision="auto")
    assert run_train(*command) == 0
    line = (
        "--mixed_precision=auto: bfloat16; 8 images take 0.2 s in bfloat16 and 0.4 s in float32,"
        " forward and backward"
    )
    assert line in capsys.readouterr().out
    before = (tmp_path / "flags.cfg").read_text()
    assert f"# {line}\n" in before and "--mixed_precision=bfloat16\n" in before

    seconds["bfloat16"] = 0.8  # the machine is busy in another way now
    assert run_train(*command, "--steps=8") == 0
    after = (tmp_path / "flags.cfg").read_text()
    assert after == before.replace("--steps=4", "--steps=8")
    assert "--mixed_precision=auto" not in capsys.readouterr().out

    # The flag file of the run alone continues it, too; another precision drops the note.
    assert run_train(f"--flagfile={tmp_path / 'flags.cfg'}", "--steps=12") == 0
    assert f"# {line}\n" in (tmp_path / "flags.cfg").read_text()
    assert run_train(*command, "--steps=16", "--mixed_precision=none") == 0
    assert "# --" not in (tmp_path / "flags.cfg").read_text()
    results = json.loads((tmp_path / "results.json").read_text())
    assert [each["step"] for each in results["evaluations"]] == [4, 8, 12, 16]


@pytest.mark.parametrize(
    ("has_bfloat16", "settings", "reason"),
    [
        (False, {}, "this machine does not compute in bfloat16"),
        (True, {"freeze_encoder": True}, "the frozen encoder and what learns from it are float32"),
    ],
)
def test_float32_without_a_trial(has_bfloat16, settings, reason, seconds, monkeypatch, small_data):
    monkeypatch.setattr(cores, "computes_bfloat16", lambda: has_bfloat16)
    asked = completed(*arguments(mixed_precision="auto", **settings))
    settled, lines = precision.settled(asked, small_data)
    assert settled.mixed_precision == "none"
    assert lines == [f"--mixed_precision=auto: float32; {reason}"]


def test_other_precisions_need_no_trial(small_data):
    for name in ("none", "bfloat16", "float16"):
        asked = completed(*arguments(mixed_precision=name))
        assert precision.settled(asked, small_data) == (asked, [])


def test_a_small_gain_is_not_worth_the_precision():
    assert fastest({"none": 1.0, "bfloat16": 0.89}) == "bfloat16"
    assert fastest({"none": 1.0, "bfloat16": 0.91}) == "none"


@pytest.mark.parametrize("jit_compile", ["false", "batch_norm", "true"])
def test_a_trial_measures_both_precisions(jit_compile, small_data):
    settings = completed(*arguments(jit_compile=jit_compile))
    seconds = trial(settings, small_data)
    assert seconds.keys() == {"none", "bfloat16"} and min(seconds.values()) > 0


def test_each_worker_would_choose_for_itself():
    settings = completed(*arguments(mixed_precision="auto", strategy="multi_worker"))
    with pytest.raises(ValueError, match=r"multi_worker.*mixed_precision=auto.*each worker would"):
        combinations.check(settings)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu avx512f avx512_bf16 amx_tile", True),
        ("fpu amx_bf16", True),
        ("fp asimd bf16 i8mm", True),  # ARM
        ("fpu avx2 avx512f avx512_vnni", False),
    ],
)
def test_bfloat16_of_a_processor(flags, expected, tmp_path):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags\t\t: {flags}\n")
    assert cores.computes_bfloat16(tmp_path / "cpuinfo") is expected
    assert not cores.computes_bfloat16(tmp_path / "missing")
