"""The command `replay`: its tables, its verdicts and its exit codes."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from daso_tf.commands import replay, terminal
from daso_tf.commands.replay import BEGIN, END, network

DATA = Path(__file__).parent / "data"
RECORDED = DATA / "recorded"
HEAD_NEVER_SURE = RECORDED / "thresholds/adsh_head_never_sure.npz"


def run_replay(*argv):
    return terminal.call(replay.COMMAND, list(map(str, argv)))


def load(path):
    with np.load(path, allow_pickle=False) as archive:
        trace = dict(archive)
    if "init_file" in trace:
        trace |= load(path.with_name(str(trace.pop("init_file"))))
    return trace


def verdicts(text):
    """The verdict of each quantity in a printed table."""
    lines = re.findall(r"^(\S+) +(?:\d\.\d\de\S+|nan|inf) +(?:\S+)  (.+)$", text, re.MULTILINE)
    return dict(lines)


def test_table_of_a_recording(capsys):
    assert run_replay(DATA / "many_settings.npz") == 0
    found = verdicts(capsys.readouterr().out)
    assert len(found) == 12
    assert set(found.values()) == {"ok"}


def test_a_deviation_is_seen(tmp_path, capsys):
    """Each kind of quantity, changed a little beyond its tolerance, is reported."""
    trace = load(DATA / "many_settings.npz")
    trace["step001/loss_cls"] = trace["step001/loss_cls"] * 1.01
    trace["step002/final_pl"] = (trace["step002/final_pl"] + 1) % 2
    trace["eval/ema_logits"] = trace["eval/ema_logits"] + 0.1
    trace["step003/final_confidence"][0] = np.nan
    np.savez(tmp_path / "changed.npz", **trace)
    assert run_replay(tmp_path / "changed.npz") == 1
    exceeded = [k for k, v in verdicts(capsys.readouterr().out).items() if v == "EXCEEDED"]
    assert exceeded == ["loss_cls", "final_pl", "final_confidence", "ema_logits"]


@pytest.mark.parametrize(
    ("recording", "draws", "quantity"),
    [
        ("rebalancers/daso_abc", "draws_labeled", "loss_abc"),
        ("learners/mixmatch", "mixup_order", "loss_cls"),
        ("learners/remixmatch", "turns", "loss_rotation"),
    ],
)
def test_random_draws_come_from_the_recording(recording, draws, quantity):
    trace = load(RECORDED / f"{recording}.npz")
    config = json.loads(str(trace["config"]))
    trace["config"] = json.dumps(config | {"steps": 1})
    recorded = trace[f"step000/{draws}"]
    trace[f"step000/{draws}"] = 1 - recorded if recorded.dtype.kind == "f" else np.roll(recorded, 1)
    exceeded = [found.name for found in network.replay(trace).exceeded]
    assert quantity in exceeded
    assert "target" not in exceeded  # what does not depend on the draws is the same


def test_other_implementations_are_shown_and_not_judged(capsys):
    assert run_replay(RECORDED / "thresholds/saw.npz") == 0
    found = verdicts(capsys.readouterr().out)
    assert found == {"weights_authors": "ok", "weights_usb": "not judged"}


def test_difference_by_design(tmp_path, capsys):
    assert run_replay(HEAD_NEVER_SURE) == 0
    out = capsys.readouterr().out
    assert verdicts(out)["label_authors"] == "differs by design"
    assert "by design: where no image of the head class is confident, ADSH keeps its thres" in out

    # The same deviation has another cause if it remains with the published behavior.
    trace = load(HEAD_NEVER_SURE)
    trace["loss_authors"] = trace["loss_authors"] * 1.01
    np.savez(tmp_path / "other.npz", **trace)
    assert run_replay(tmp_path / "other.npz") == 1
    assert verdicts(capsys.readouterr().out)["label_authors"] == "EXCEEDED"


def recorded_as_published(trace, monkeypatch, **settings):
    """A recording with other settings, which the library has made with the published behavior."""
    trace = trace | {"config": json.dumps(json.loads(str(trace["config"])) | settings)}
    values = {}

    class Recorder(network.Comparison):
        def add(self, name, ours, recorded, tolerance):
            values.setdefault(name, []).append(np.array(ours))

    with monkeypatch.context() as patch:
        patch.setattr(network, "Comparison", Recorder)
        config = json.loads(str(trace["config"]))
        network._compare(trace, config, jit_compile=False, as_recorded=True)
    for name, of_steps in values.items():
        keys = [key for key in sorted(trace) if key.startswith("step") and key.endswith(f"/{name}")]
        trace |= dict(zip(keys, of_steps, strict=True))
    return trace


@pytest.mark.parametrize(
    ("recording", "settings", "reason", "deviates"),
    [
        (
            "rebalancers/fixmatch_darp",
            {"darp_warmup": 2, "darp_period": 4},
            "DARP refines as soon as it starts",
            {"target", "final_pl", "mask"},
        ),
        (
            "rebalancers/supervised_ldam_from_start",
            {"reweight_iters": 3},
            "LDAM has its margins",
            {"loss_cls", "grad_norm"},
        ),
        (
            "rebalancers/supervised_ldam_from_start",
            {"reweight_iters": 3, "supervised_loss": "class_balanced"},
            "the class-balanced loss has its weights",
            {"loss_cls", "grad_norm"},
        ),
        (
            "rebalancers/supervised_ldam_from_start",
            {"method": "crt", "supervised_loss": "cross_entropy"},
            "cRT keeps BatchNorm in inference mode",
            {"loss_cls", "grad_norm"},
        ),
    ],
)
def test_published_behavior_is_recognized(
    recording, settings, reason, deviates, monkeypatch, tmp_path, capsys
):
    trace = load(RECORDED / f"{recording}.npz")
    trace = recorded_as_published(trace, monkeypatch, **settings)
    result = network.replay(trace)
    assert result.differs
    assert not result.exceeded
    assert result.difference.reason.startswith(reason)
    assert {found.name for found in result.quantities if not found.within} >= deviates

    trace["step000/loss_cls"] = trace["step000/loss_cls"] + 1  # another cause
    result = network.replay(trace)
    assert not result.differs
    assert "loss_cls" in [found.name for found in result.exceeded]


def test_folder(tmp_path, capsys):
    folder = tmp_path / "recordings"
    (folder / "thresholds").mkdir(parents=True)
    for name in ("saw", "adsh_head_never_sure", "alignment"):
        source = RECORDED / f"thresholds/{name}.npz"
        (folder / f"thresholds/{name}.npz").write_bytes(source.read_bytes())
    np.savez(folder / "another.npz", images=np.zeros(3))
    np.savez(folder / "newer.npz", config=json.dumps({"method": "newer"}))
    assert run_replay(folder) == 0
    last = capsys.readouterr().out.splitlines()[-5:]
    assert [line.split()[0].removeprefix(f"{folder}/") for line in last] == [
        "another.npz",
        "newer.npz",
        "thresholds/adsh_head_never_sure.npz",
        "thresholds/alignment.npz",
        "thresholds/saw.npz",
    ]
    assert "skipped: none of its keys" in last[0]
    assert "skipped: the method 'newer' is none of" in last[1]
    assert "differs by design: where no image" in last[2]
    assert last[3].endswith(" ok")

    (folder / "damaged.npz").write_text("no archive")
    assert run_replay(folder) == 2
    assert "cannot be replayed: " in capsys.readouterr().out

    trace = load(folder / "thresholds/saw.npz")
    np.savez(folder / "thresholds/saw.npz", **trace | {"weights_authors": trace["counts"] * 1.0})
    assert run_replay(folder) == 1
    assert capsys.readouterr().out.splitlines()[-1].endswith("EXCEEDED: weights_authors")


def test_inputs_of_another_file(tmp_path, capsys):
    """Recordings of the weights alone have their inputs in a file of the same folder."""
    trace = load(RECORDED / "thresholds/softmatch_usb_m9_uniform.npz")
    logits = trace["weak"].astype(np.float64)
    probabilities = np.exp(logits - logits.max(axis=-1, keepdims=True))
    confidence = (probabilities / probabilities.sum(axis=-1, keepdims=True)).max(axis=-1)
    mean, variance, weights = 0.1, 1.0, []
    for of_step in confidence:
        mean = 0.9 * mean + 0.1 * of_step.mean()
        variance = 0.9 * variance + 0.1 * of_step.var(ddof=1)
        below = np.minimum(of_step - mean, 0)
        weights.append(np.exp(-(below**2) / (2 * variance / 4)))
    np.savez(tmp_path / "softmatch_torchssl_m9.npz", weights_unaligned=weights)
    assert run_replay(tmp_path / "softmatch_torchssl_m9.npz") == 2
    assert "softmatch_usb_m9.npz" in capsys.readouterr().err

    np.savez(tmp_path / "softmatch_usb_m9.npz", **trace)
    assert run_replay(tmp_path / "softmatch_torchssl_m9.npz") == 0
    assert verdicts(capsys.readouterr().out) == {"weights_unaligned": "ok"}


def test_two_strong_views_of_abc_authors(tmp_path, capsys):
    trace = load(RECORDED / "thresholds/abc.npz")
    np.savez(tmp_path / "abc.npz", **trace)
    losses = {"loss_authors": trace["loss_soft_two_views"], "threshold": trace["threshold"]}
    np.savez(tmp_path / "abc_authors.npz", **losses)
    assert run_replay(tmp_path / "abc_authors.npz") == 0
    out = capsys.readouterr().out
    assert verdicts(out) == {"loss_authors": "differs by design"}
    assert "ABC teaches one strong view" in out


def test_table_of_the_documentation(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(f"# Page\n\n{BEGIN}\n\nold\n\n{END}\n\nlast\n")
    files = [RECORDED / "thresholds/saw.npz", HEAD_NEVER_SURE]
    assert run_replay(*files, f"--write={page}") == 0
    lines = page.read_text().splitlines()
    assert lines[:3] == ["# Page", "", BEGIN]
    assert lines[-3:] == [END, "", "last"]
    assert lines[4] == "| method | recording | worst deviation (tolerance) | verdict |"
    assert lines[6].startswith("| adsh | `adsh_head_never_sure` | ")
    assert "differs by design" in lines[6]
    assert lines[7].startswith("| saw | `saw` | weights_authors ")
    assert lines[7].endswith(" | ok |")

    page.write_text("# Page\n")
    assert run_replay(*files, f"--write={page}") == 2
    assert "has no place for the table" in capsys.readouterr().err


def test_what_cannot_be_replayed_is_named(tmp_path, capsys):
    assert run_replay() == 2
    assert "needs a recording or a folder of recordings" in capsys.readouterr().err
    assert run_replay(tmp_path) == 2
    assert "there is no recording (*.npz) in" in capsys.readouterr().err

    assert run_replay(tmp_path / "none.npz") == 2
    assert "none.npz cannot be replayed" in capsys.readouterr().err
    (tmp_path / "text.npz").write_text("no archive")
    assert run_replay(tmp_path / "text.npz") == 2
    assert "text.npz cannot be replayed" in capsys.readouterr().err

    trace = load(DATA / "many_settings.npz")
    del trace["init/encoder.unit4.0.weight"]
    np.savez(tmp_path / "lacking.npz", **trace)
    assert run_replay(tmp_path / "lacking.npz") == 2
    assert "encoder.unit4.0.weight" in capsys.readouterr().err

    trace = load(DATA / "many_settings.npz")
    config = json.loads(str(trace["config"]))
    del config["dist_temp"]
    np.savez(tmp_path / "unset.npz", **{**trace, "config": json.dumps(config)})
    assert run_replay(tmp_path / "unset.npz") == 2
    assert "it has no 'dist_temp'" in capsys.readouterr().err

    for changed, message in (
        ({"method": "newer"}, "the method 'newer' is none of fixmatch, daso"),
        ({"learner": "newer"}, "the learner 'newer' is none of"),
        ({"learner": "mixmatch", "pseudo_labeler": "x"}, "the pseudo-labeler 'x' is none of"),
        ({"method": "supervised", "supervised_loss": "x"}, "the supervised loss 'x' is none of"),
    ):
        np.savez(tmp_path / "changed.npz", **{**trace, "config": json.dumps(config | changed)})
        assert run_replay(tmp_path / "changed.npz") == 2
        assert message in capsys.readouterr().err
