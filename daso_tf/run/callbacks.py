"""What happens while a learner trains: progress bar, evaluations, checkpoints, checks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from daso_tf.data import ImageFiles, Images
from daso_tf.platform import replicas
from daso_tf.platform.disk import naming
from daso_tf.platform.last_step import LastStep
from daso_tf.run.checkpoints import Checkpoints, NonFiniteError
from daso_tf.run.distribution_estimate import DistributionEstimate
from daso_tf.run.prediction import Prediction
from daso_tf.run.report import accuracy_line, draw
from daso_tf.run.results import Results, evaluate


class Stopped(Exception):  # noqa: N818  # it is not an error
    """The run was told to stop and has done so, after saving a checkpoint.

    Args:
        step: The number of steps done.
    """

    def __init__(self, step: int):
        super().__init__(step)
        self.step = step


class PacedCallbacks(keras.callbacks.CallbackList):
    """Callbacks that are called after every epoch, but at most twice per second after a step.

    Before Keras calls a callback, it turns the logs of the step into numbers, and for that the
    device must have finished the step. Keras 3 does so after every step, in the training loop
    itself unless all callbacks are `async_safe`. Keras 2 does so unless all callbacks take tensors,
    and always for a progress bar. So Keras does not get the logs of the steps in between.

    Args:
        callbacks: The callbacks.
        model: What is trained.
        steps: Steps per epoch.
        epochs: Number of the last epoch.
        verbose: As for `fit`.
        last_step: When to stop early.
        interval: Least number of seconds between two steps after which callbacks are called; 0 for
            every step.
        after_step: Called after every step but the last one of an epoch, with the number of the
            step in the epoch, from 0, and whether the run stops after it. It gets no logs.

    Raises:
        Stopped: From `fit`, after the last step. At the end of an epoch the callbacks come first.
    """

    def __init__(
        self,
        callbacks: Sequence[keras.callbacks.Callback],
        model: keras.Model,
        steps: int,
        epochs: int,
        verbose: int,
        last_step: LastStep,
        after_step: Callable[[int, bool], object],
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
        self._steps = steps
        self._last_step = last_step
        self._interval = interval
        self._after_step = after_step
        self._last_call = time.monotonic()

    def on_train_batch_begin(self, batch, logs=None):
        """Calls the callbacks."""
        self._last_step.begin()
        super().on_train_batch_begin(batch, logs)

    def on_train_batch_end(self, batch, logs=None):
        """Calls the callbacks if the last call is long enough ago; stops after the last step."""
        stops = self._last_step.reached()
        if batch + 1 < self._steps:
            self._after_step(batch, stops)
            if stops:
                raise Stopped(int(self.model.step.numpy()))
        now = time.monotonic()
        if now - self._last_call >= self._interval:
            self._last_call = now
            super().on_train_batch_end(batch, logs)

    def on_epoch_end(self, epoch, logs=None):
        """Calls the callbacks, which save; stops if the last step was that of the epoch."""
        super().on_epoch_end(epoch, logs)
        if self._last_step.reached():
            raise Stopped(int(self.model.step.numpy()))
        self._last_step.unsaved = False


class ShortProgress(keras.callbacks.ProgbarLogger):
    """Keras's progress bar with only the metrics that fit into a line of a terminal."""

    shown = ("loss", "mask_rate")
    async_safe = True  # like Keras's own bar

    def __init__(self):
        super().__init__()
        self.use_steps = True  # Keras 2.15 counts samples unless told so

    def on_train_batch_end(self, batch, logs=None):
        """Updates the bar."""
        super().on_train_batch_end(batch, self._of(logs))

    def on_epoch_end(self, epoch, logs=None):
        """Completes the bar."""
        super().on_epoch_end(epoch, self._of(logs))

    def _of(self, logs):
        return {name: logs[name] for name in self.shown if name in logs}


class TimeLeft(keras.callbacks.Callback):
    """Prints once, after the first steps, how long the training will take.

    The first call after a pause only starts the clock: the steps before it include compilation.

    Args:
        steps: Steps of the run.
        erase: What to print before the line to erase a progress bar.
        seconds: Seconds of training to measure.
        clock: Returns the time in seconds.
    """

    async_safe = True  # it reads nothing that a later step may change

    def __init__(
        self,
        steps: int,
        erase: str = "",
        seconds: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        super().__init__()
        self.steps = steps
        self.erase = erase
        self.seconds = seconds
        self.clock = clock
        self._measured_steps, self._measured_seconds = 0, 0.0
        self._printed = False

    def on_epoch_begin(self, epoch, logs=None):
        """Stops the clock: an evaluation is no step."""
        self._first_step = int(self.model.step.numpy())
        self._last: tuple[float, int] | None = None

    def on_train_batch_end(self, batch, logs=None):
        """Measures; prints the line as soon as the measurement is long enough."""
        if self._printed:
            return
        now = self.clock()
        if self._last is not None:
            self._measured_seconds += now - self._last[0]
            self._measured_steps += batch - self._last[1]
        self._last = now, batch
        if self._measured_seconds >= self.seconds:
            self._printed = True
            rate = self._measured_steps / self._measured_seconds
            left = self.steps - (self._first_step + batch + 1)
            print(
                f"{self.erase}about {duration(left / rate)} left until step {self.steps},"
                f" evaluations not included ({rate:.2g} steps/s)",
                flush=True,
            )


def duration(seconds: float) -> str:
    """Returns a duration in words, rounded.

    Example:

    >>> [duration(seconds) for seconds in (20, 119, 5000, 40_000)]
    ['1 minute', '2 minutes', '83 minutes', '11 hours']
    """
    minutes = max(round(seconds / 60), 1)
    number, word = (minutes, "minute") if minutes < 120 else (round(minutes / 60), "hour")
    return f"{number:,} {word}{'s' * (number > 1)}"


class StopAtNonFiniteLoss(keras.callbacks.Callback):
    """Stops training where the losses are not finite numbers.

    Raises:
        NonFiniteError: From `fit`. Nothing of that epoch is saved, because this callback comes
            before those that save.
    """

    # Keras may then call it during the next step, so that reading the losses delays nothing.
    async_safe = True

    def on_epoch_begin(self, epoch, logs=None):
        """Stores the step at which the epoch starts."""
        self._first_step = int(self.model.step.numpy())

    def on_train_batch_end(self, batch, logs=None):
        """Checks the losses; they are means over the epoch, so nan stays nan."""
        self._check(logs, self._first_step + batch + 1)

    def on_epoch_end(self, epoch, logs=None):
        """Checks the losses of the whole epoch."""
        self._check(logs, int(self.model.step.numpy()))

    def _check(self, logs, step):
        losses = {name: value for name, value in logs.items() if name.endswith("loss")}
        if not np.isfinite(list(losses.values())).all():
            values = ", ".join(f"{name} {value:g}" for name, value in losses.items())
            raise NonFiniteError(f"by step {step} the losses were not finite: {values}")


class ContinueMetrics(keras.callbacks.Callback):
    """Continues the metrics of a checkpoint that was saved between two evaluations.

    Keras resets metrics where an epoch begins, and the first epoch of a continued run is the rest
    of one. `Evaluation` resets them, too, so at all other times there is nothing to continue.
    """

    def on_train_begin(self, logs=None):
        """Takes the metrics, before Keras resets them."""
        variables = [variable for metric in self.model.metrics for variable in metric.variables]
        self._counted = [np.asarray(tf.convert_to_tensor(variable)) for variable in variables]

    def on_epoch_begin(self, epoch, logs=None):
        """Sets them again in the first epoch."""
        if any(values.any() for values in self._counted):
            variables = [variable for metric in self.model.metrics for variable in metric.variables]
            replicas.set_sums(self.model.distribute_strategy, variables, self._counted)
        self._counted = []


_SECONDS_OF_A_DRAWING = 0.5  # assumed until one is measured


class Evaluation(keras.callbacks.Callback):
    """Evaluates the EMA network after every epoch, and records the result.

    `results.png` takes 0.4 seconds to draw for 10 classes and 3 for 1,000. So it is drawn after the
    last epoch, and after the others only where that takes a small share of the time.

    Args:
        parts: Images by name ("test", "validation").
        predict: Predicts sets of images.
        results: The evaluations of the run.
        directory: Folder of TensorBoard's event files and of `results.png`; None in workers that
            only take part in the evaluation.
        stop_after: Number of evaluations without progress after which training ends; 0 for never.
        estimate: Estimates the class distribution of the unlabeled images before each evaluation.
        draw_share: An epoch that is not the last one draws `results.png` if the last drawing took
            at most this share of the time since then.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        parts: dict[str, Images | ImageFiles],
        predict: Prediction,
        results: Results,
        directory: Path | None,
        stop_after: int = 0,
        estimate: DistributionEstimate | None = None,
        draw_share: float = 0.01,
        clock: Callable[[], float] = time.monotonic,
    ):
        super().__init__()
        self.parts = parts
        self.predict = predict
        self.results = results
        self.directory = directory
        self.stop_after = stop_after
        self.estimate = estimate
        self.draw_share = draw_share
        self.clock = clock
        self._drawn_at, self._drawing = clock(), _SECONDS_OF_A_DRAWING
        if directory:
            with naming(directory):
                self.writer = tf.summary.create_file_writer(str(directory))

    def on_epoch_end(self, epoch, logs=None):
        """Evaluates, prints the accuracy, writes `results.json`, events and perhaps `results.png`.

        Raises:
            OSError: If one of these cannot be written. The next start repeats the evaluation.
        """
        evaluation = self._evaluate()
        self.model.reset_metrics()  # it has reported them
        self.results.add(evaluation, write=self.directory is not None)
        if 0 < self.stop_after <= self.results.without_progress():
            self.model.stop_training = True
        if self.directory is None:
            return
        for name in self.parts:
            print(f"step {evaluation['step']}, {accuracy_line(name, evaluation[name])}")
        is_last = epoch + 1 == self.params["epochs"] or self.model.stop_training
        begin = self.clock()
        if is_last or self._drawing <= self.draw_share * (begin - self._drawn_at):
            draw(self.results, self.directory / "results.png")
            self._drawn_at = self.clock()
            self._drawing = self._drawn_at - begin
        self._write_events(evaluation, logs)

    def _evaluate(self):
        evaluation = {"step": int(self.model.step.numpy())}
        if self.estimate is not None:
            evaluation["unlabeled_distribution"] = self.estimate(self.model)
        for name, images in self.parts.items():
            evaluation[name] = evaluate(
                images.labels,
                self.predict(images),
                self.results.labeled_counts,
                self.model.test_logit_adjustment,
                self._answered(),
            )
        statistics = self.model.pseudo_label_statistics.items()
        evaluation["pseudo_labels"] = {
            name: {score: values[score].tolist() for score in ("recall", "precision", "assigned")}
            for name, values in ((name, metric.per_class()) for name, metric in statistics)
        }
        return evaluation

    def _answered(self):
        prior = self.model.answered_log_prior
        return None if prior is None else prior.numpy()

    def _write_events(self, evaluation, logs):
        scalars = {f"train/{name}": value for name, value in logs.items()}
        for part in self.parts:
            for name in ("accuracy", "balanced_accuracy"):
                scalars[f"{part}/{name}"] = evaluation[part][name]
                scalars[f"{part}/logit_adjusted_{name}"] = evaluation[part]["logit_adjusted"][name]
            for name, value in evaluation[part]["calibration"].items():
                if not isinstance(value, dict):
                    scalars[f"{part}/{name}"] = value
        with naming(self.directory), self.writer.as_default(step=evaluation["step"]):
            for name, value in scalars.items():
                tf.summary.scalar(name, value)
            self.writer.flush()


class SaveCheckpoint(keras.callbacks.Callback):
    """Saves a checkpoint after every epoch; it comes after `Evaluation` in the list of callbacks.

    A run that is stopped between the two repeats the evaluation. In the other order it would miss
    one. The file is written while training continues, so whoever trains must wait for it at the end
    (`Checkpoints.written`).

    Args:
        checkpoints: The checkpoints of the run.
        every: Number of steps of the run after which another one is saved; 0 for none.
        write: Whether this worker writes them; the others only take part.
        best_until: Returns the best step until a step; see `Checkpoints.save`.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        every: int = 0,
        write: bool = True,
        best_until: Callable[[int], int | None] = lambda step: None,
    ):
        super().__init__()
        self.best_until = best_until
        self.checkpoints = checkpoints
        self.every = every
        self.write = write

    def on_epoch_begin(self, epoch, logs=None):
        """Stores the step at which the epoch starts."""
        self._first_step = int(self.model.step.numpy())

    def after_step(self, batch: int, last: bool) -> None:
        """Saves within an epoch: after the last step, and after every `every` steps of the run."""
        self.checkpoints.check()
        if last or (self.every and (self._first_step + batch + 1) % self.every == 0):
            self._save()

    def on_epoch_end(self, epoch, logs=None):
        """Saves every variable of model and optimizer."""
        self._save()

    def _save(self) -> None:
        self.checkpoints.start_saving(self.model, self.write, self.best_until)
