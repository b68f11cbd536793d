"""`results.png` is drawn after the last epoch, and before where that takes little of the time."""

import types

import pytest

from daso_tf.run import callbacks


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Returns a function: after which of twelve epochs, of 20 seconds each, it is drawn."""
    state = types.SimpleNamespace(now=0.0, epoch=0)
    steps = []

    def draw(results, path):
        steps.append(state.epoch)
        state.now += state.seconds

    monkeypatch.setattr(callbacks, "draw", draw)
    monkeypatch.setattr(callbacks.Evaluation, "_evaluate", lambda self: {"step": 0})
    monkeypatch.setattr(callbacks.Evaluation, "_write_events", lambda *_: None)

    def run(seconds, stops_after=None):
        state.seconds = seconds
        results = types.SimpleNamespace(add=lambda *_, **__: None)
        evaluation = callbacks.Evaluation(
            {}, None, results, tmp_path, draw_share=0.01, clock=lambda: state.now
        )
        model = types.SimpleNamespace(stop_training=False, reset_metrics=lambda: None)
        evaluation.set_model(model)
        evaluation.set_params({"epochs": 12})
        for epoch in range(12):
            state.epoch = epoch + 1
            state.now += 20
            model.stop_training = epoch + 1 == stops_after
            evaluation.on_epoch_end(epoch)
            if model.stop_training:
                break
        return steps

    return run


def test_it_is_drawn_where_that_takes_a_hundredth_of_the_time_and_at_the_end(drawn):
    # The first time after 50 seconds; then at least a hundred times what it took.
    assert drawn(seconds=0.3) == [3, 5, 7, 9, 11, 12]


def test_a_picture_that_takes_long_is_drawn_rarely(drawn):
    assert drawn(seconds=1.25) == [3, 10, 12]


def test_it_is_drawn_where_training_stops_early(drawn):
    assert drawn(seconds=0.3, stops_after=4) == [3, 4]
