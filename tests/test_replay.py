"""Recorded runs of FixMatch + DASO replay through our step within their tolerances."""

import json
import pathlib

import numpy as np
import pytest

from daso_tf.commands import replay, terminal

HERE = pathlib.Path(__file__).parent
CARRIED = sorted((HERE / "data").glob("*.npz"))
RECORDED = HERE.parents[1] / "shared" / "reference" / "daso_cifar10lt_t1.5.npz"


def run_replay(*argv):
    return terminal.call(replay.COMMAND, list(map(str, argv)))


def load(path):
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


@pytest.mark.parametrize("path", [*CARRIED, RECORDED], ids=lambda path: path.stem)
def test_trace_replays(path, capsys):
    if not path.exists():
        pytest.skip(f"the recording {path.name} of the authors' code is not here")
    assert run_replay(path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 12  # a header, and one line per quantity
    assert all(line.endswith("ok") for line in lines[1:])


def test_a_deviation_is_seen(tmp_path, capsys):
    """Each kind of quantity, changed a little beyond its tolerance, is reported."""
    trace = load(CARRIED[0])
    trace["step001/loss_cls"] = trace["step001/loss_cls"] * 1.01
    trace["step002/final_pl"] = (trace["step002/final_pl"] + 1) % 2
    trace["eval/ema_logits"] = trace["eval/ema_logits"] + 0.1
    np.savez(tmp_path / "changed.npz", **trace)
    assert run_replay(tmp_path / "changed.npz") == 1
    exceeded = [line.split()[0] for line in capsys.readouterr().out.splitlines() if "EXC" in line]
    assert exceeded == ["loss_cls", "final_pl", "ema_logits"]


def test_what_cannot_be_replayed_is_named(tmp_path, capsys):
    assert run_replay() == 2
    assert "needs one trace: TRACE.npz" in capsys.readouterr().err

    assert run_replay(tmp_path / "none.npz") == 2
    assert "none.npz cannot be replayed" in capsys.readouterr().err
    (tmp_path / "text.npz").write_text("no archive")
    assert run_replay(tmp_path / "text.npz") == 2
    assert "text.npz cannot be replayed" in capsys.readouterr().err

    trace = load(CARRIED[0])
    del trace["init/encoder.unit4.0.weight"]
    np.savez(tmp_path / "lacking.npz", **trace)
    assert run_replay(tmp_path / "lacking.npz") == 2
    assert "encoder.unit4.0.weight" in capsys.readouterr().err

    trace = load(CARRIED[0])
    config = json.loads(str(trace["config"]))
    del config["proto_temp"]
    np.savez(tmp_path / "unset.npz", **{**trace, "config": json.dumps(config)})
    assert run_replay(tmp_path / "unset.npz") == 2
    assert "proto_temp" in capsys.readouterr().err
