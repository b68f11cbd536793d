"""What is recorded while a learner trains: evaluations, checkpoints, and losses gone wrong."""

import time
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from daso_tf.data import ImageFiles, Images
from daso_tf.run.checkpoints import Checkpoints, NonFiniteError
from daso_tf.run.prediction import Prediction
from daso_tf.run.report import accuracy_line, draw
from daso_tf.run.results import Results, evaluate


class PacedCallbacks(keras.callbacks.CallbackList):
    """Callbacks that hear of a training step twice a second at most, and of every epoch.

    Before Keras calls anybody, it turns the logs of the step into numbers, and for that the device
    must have finished the step: Keras 3 after every step, in the training loop itself unless all
    callbacks are `async_safe`; Keras 2 after every step unless all callbacks take tensors, and a
    progress bar does it in any case. So logs of the steps between are not handed to it at all.

    Args:
        callbacks: the callbacks.
        model: what is trained.
        steps: of an epoch.
        epochs: number of the last epoch.
        verbose: as for `fit`.
        interval: seconds from one step that callbacks hear of to the next; 0 for every step.
    """

    def __init__(
        self,
        callbacks: Sequence[keras.callbacks.Callback],
        model: keras.Model,
        steps: int,
        epochs: int,
        verbose: int,
        interval: float = 0.5,
    ):
        super().__init__(
            list(callbacks),
            add_history=True,
            add_progbar=verbose != 0,
            model=model,
            steps=steps,
            epochs=epochs,
            verbose=verbose,
        )
        self._interval = interval
        self._heard = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        """Calls the callbacks where it is time to."""
        now = time.monotonic()
        if now - self._heard >= self._interval:
            self._heard = now
            super().on_train_batch_end(batch, logs)


class ShortProgress(keras.callbacks.ProgbarLogger):
    """Keras's progress bar with as many metrics as fit into a line of a terminal."""

    shown = ("loss", "mask_rate")
    async_safe = True  # as the bar that it takes the place of

    def __init__(self):
        super().__init__()
        self.use_steps = True  # Keras 2.15 counts samples unless told so

    def on_train_batch_end(self, batch, logs=None):
        """Moves the bar."""
        super().on_train_batch_end(batch, self._of(logs))

    def on_epoch_end(self, epoch, logs=None):
        """Completes the bar."""
        super().on_epoch_end(epoch, self._of(logs))

    def _of(self, logs):
        return {name: logs[name] for name in self.shown if name in logs}


class StopAtNonFiniteLoss(keras.callbacks.Callback):
    """Ends training where the losses are not finite numbers.

    Raises:
        NonFiniteError: from `fit`, before anything of that epoch is saved, as this callback comes
            before those that do.
    """

    # Keras may then call it beside the next step, so that reading the losses holds nothing up.
    async_safe = True

    def on_epoch_begin(self, epoch, logs=None):
        """Notes the step that the epoch begins at."""
        self._first_step = int(self.model.step.numpy())

    def on_train_batch_end(self, batch, logs=None):
        """Checks the losses: means over the epoch so far, which stay what they once became."""
        self._check(logs, self._first_step + batch + 1)

    def on_epoch_end(self, epoch, logs=None):
        """Checks the losses of the whole epoch."""
        self._check(logs, int(self.model.step.numpy()))

    def _check(self, logs, step):
        losses = {name: value for name, value in logs.items() if name.endswith("loss")}
        if not np.isfinite(list(losses.values())).all():
            values = ", ".join(f"{name} {value:g}" for name, value in losses.items())
            raise NonFiniteError(f"by step {step} the losses were not finite: {values}")


class Evaluation(keras.callbacks.Callback):
    """Evaluates the EMA network after every epoch, and records what it reaches.

    Args:
        parts: images by name ("test", "validation").
        predict: what the learner says of images.
        results: where evaluations are added.
        directory: where TensorBoard event files and `results.png` go; None where this process has
            its part in the evaluation and another one records it.
    """

    def __init__(
        self,
        parts: dict[str, Images | ImageFiles],
        predict: Prediction,
        results: Results,
        directory: Path | None,
    ):
        super().__init__()
        self.parts = parts
        self.predict = predict
        self.results = results
        self.directory = directory
        self.writer = directory and tf.summary.create_file_writer(str(directory))

    def on_epoch_end(self, epoch, logs=None):
        """Evaluates, prints the accuracy, writes `results.json`, `results.png` and events."""
        evaluation = self._evaluate()
        if self.directory is None:
            return
        for name in self.parts:
            print(f"step {evaluation['step']}, {accuracy_line(name, evaluation[name])}")
        self.results.add(evaluation)
        draw(self.results, self.directory / "results.png")
        self._write_events(evaluation, logs)

    def _evaluate(self):
        evaluation = {"step": int(self.model.step.numpy())}
        for name, images in self.parts.items():
            evaluation[name] = evaluate(
                images.labels,
                self.predict(images),
                self.results.labeled_counts,
                self.model.test_logit_adjustment,
            )
        statistics = self.model.pseudo_label_statistics.items()
        evaluation["pseudo_labels"] = {
            name: {score: values[score].tolist() for score in ("recall", "precision", "assigned")}
            for name, values in ((name, metric.per_class()) for name, metric in statistics)
        }
        return evaluation

    def _write_events(self, evaluation, logs):
        scalars = {f"train/{name}": value for name, value in logs.items()}
        for part in self.parts:
            for name in ("accuracy", "balanced_accuracy"):
                scalars[f"{part}/{name}"] = evaluation[part][name]
                scalars[f"{part}/logit_adjusted_{name}"] = evaluation[part]["logit_adjusted"][name]
        with self.writer.as_default(step=evaluation["step"]):
            for name, value in scalars.items():
                tf.summary.scalar(name, value)
        self.writer.flush()


class SaveCheckpoint(keras.callbacks.Callback):
    """Saves a checkpoint after every epoch; comes after `Evaluation` in the list of callbacks.

    Stopped in between, a run makes that evaluation again; the other way round it would lack one.

    Args:
        checkpoints: where to.
    """

    def __init__(self, checkpoints: Checkpoints):
        super().__init__()
        self.checkpoints = checkpoints

    def on_epoch_end(self, epoch, logs=None):
        """Saves every variable of model and optimizer."""
        self.checkpoints.save(self.model)
