"""What is recorded while a learner trains: evaluations, checkpoints, and losses gone wrong."""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from daso_tf.checkpoints import Checkpoints, NonFiniteError
from daso_tf.report import accuracy_line, draw
from daso_tf.results import Results, evaluate


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
    """Ends training at the first step whose losses are not finite numbers.

    Raises:
        NonFiniteError: from `fit`, before anything of that epoch is saved.
    """

    # Keras may then call it beside the next step, so that reading the losses holds nothing up.
    async_safe = True

    def on_epoch_begin(self, epoch, logs=None):
        """Notes the step that the epoch begins at."""
        self._first_step = int(self.model.step.numpy())

    def on_train_batch_end(self, batch, logs=None):
        """Checks the losses: means over the epoch so far, which stay what they once became."""
        losses = {name: value for name, value in logs.items() if name.endswith("loss")}
        if not np.isfinite(list(losses.values())).all():
            values = ", ".join(f"{name} {value:g}" for name, value in losses.items())
            step = self._first_step + batch + 1
            raise NonFiniteError(f"the losses of step {step} are not finite: {values}")


class Evaluation(keras.callbacks.Callback):
    """Evaluates the EMA network after every epoch, and records what it reaches.

    Args:
        parts: evaluation batches by name ("test", "validation"): each a pair of a dataset of
            images of one static shape, and the labels, which may be fewer than the images.
        results: where evaluations are added.
        directory: where TensorBoard event files and `results.png` go.
    """

    def __init__(
        self,
        parts: dict[str, tuple[tf.data.Dataset, np.ndarray]],
        results: Results,
        directory: Path,
    ):
        super().__init__()
        self.parts = parts
        self.results = results
        self.directory = Path(directory)
        self.writer = tf.summary.create_file_writer(str(self.directory))

    def on_epoch_end(self, epoch, logs=None):
        """Evaluates, prints the accuracy, writes `results.json`, `results.png` and events."""
        evaluation = {"step": int(self.model.step.numpy())}
        for name, (images, labels) in self.parts.items():
            probabilities = self.model.predict(images, verbose=0)[: len(labels)]
            evaluation[name] = evaluate(
                labels,
                probabilities,
                self.results.labeled_counts,
                self.model.test_logit_adjustment,
            )
            print(f"step {evaluation['step']}, {accuracy_line(name, evaluation[name])}")
        statistics = self.model.pseudo_label_statistics.items()
        evaluation["pseudo_labels"] = {
            name: {score: values[score].tolist() for score in ("recall", "precision", "assigned")}
            for name, values in ((name, metric.per_class()) for name, metric in statistics)
        }
        self.results.add(evaluation)
        draw(self.results, self.directory / "results.png")
        self._write_events(evaluation, logs)

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
