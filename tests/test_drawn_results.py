"""`results.png` is drawn after the last epoch, and before only now and then."""

import types

import pytest

from daso_tf.run import callbacks


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Returns a function: after which of eight epochs, of four seconds each, it is drawn."""
    steps = []
    monkeypatch.setattr(callbacks, "draw", lambda results, path: steps.append(results.step))
    monkeypatch.setattr(callbacks.Evaluation, "_evaluate", lambda self: {"step": 0})
    monkeypatch.setattr(callbacks.Evaluation, "_write_events", lambda *_: None)

    def run(stops_after=None):
        results = types.SimpleNamespace(step=0, add=lambda *_, **__: None)
        evaluation = callbacks.Evaluation(
            {}, None, results, tmp_path, draw_after=10.0, clock=lambda: 4 * results.step
        )
        model = types.SimpleNamespace(stop_training=False, reset_metrics=lambda: None)
        evaluation.set_model(model)
        evaluation.set_params({"epochs": 8})
        for epoch in range(8):
            results.step = epoch + 1
            model.stop_training = epoch + 1 == stops_after
            evaluation.on_epoch_end(epoch)
            if model.stop_training:
                break
        return steps

    return run


def test_it_is_drawn_some_seconds_after_the_last_time_and_at_the_end(drawn):
    assert drawn() == [3, 6, 8]


def test_it_is_drawn_where_training_stops_early(drawn):
    assert drawn(stops_after=5) == [3, 5]
