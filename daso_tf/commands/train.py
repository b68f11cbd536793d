"""Trains a learner: `daso-tf train --flagfile=digits_lt.cfg`.

The same command again continues the run in `--model_dir`. Exit code: 0 finished, 1 stopped by a
loss that is not finite, by image files that cannot be read or by files that cannot be written, 2 a
setting or the data cannot be used, 130 interrupted, 143 stopped by SIGTERM, after the present step
and a checkpoint.
"""

from __future__ import annotations

import signal

from daso_tf.commands import terminal
from daso_tf.commands.command_lines import COMMANDS
from daso_tf.data import DataError
from daso_tf.platform import signals, strategies
from daso_tf.platform.last_step import LastStep
from daso_tf.run.callbacks import Stopped
from daso_tf.run.checkpoints import NonFiniteError
from daso_tf.run.finetuning import finetune
from daso_tf.run.finishing import finish
from daso_tf.run.lock import one_run
from daso_tf.run.preparation import prepare
from daso_tf.run.run import train
from daso_tf.run.twin import train_twin
from daso_tf.settings.flags import complete
from daso_tf.settings.settings import Settings

_CONTINUES = "the same command continues from the newest checkpoint"


def main(settings: Settings, arguments: list[str]) -> int:
    """Prepares, trains and finishes a run.

    Args:
        settings: Those of the run.
        arguments: There are none.

    Returns:
        The exit code.
    """
    settings = complete(settings)
    last_step = LastStep()
    with (
        one_run(settings),
        signals.taken_by(
            lambda number: number == signal.SIGTERM and last_step.request(), _CONTINUES
        ),
    ):
        code = _run(settings, last_step)
    return code


def _run(settings: Settings, last_step: LastStep) -> int:
    try:
        run = prepare(settings, last_step)
    except strategies.WORKER_GONE as error:  # while the weights are made the same on all workers
        return _without_a_worker(settings, error)
    try:
        run = train(run)
        train_twin(run)
        finetune(run)
        last_step.unsaved = True  # the export
        finish(run)
        strategies.wait_for_chief(run.strategy)
        if last_step.requested:
            return terminal.fail(
                signals.line_of(signal.SIGTERM, "the run is finished"), terminal.TERMINATED
            )
    except Stopped as stopped:
        strategies.wait_for_chief(run.strategy)
        return terminal.fail(
            f"{signals.line_of(signal.SIGTERM)} after step {stopped.step}; {_CONTINUES}",
            terminal.TERMINATED,
        )
    except NonFiniteError as error:
        before = f" The checkpoints in {run.model_dir} are from before."
        message = f"stopped, {error}.{before if run.checkpoints.paths() else ''}"
        return terminal.fail(message, terminal.FAILED)
    except DataError as error:
        return terminal.fail(
            f"stopped, {error}\nRepair or remove the files; then the same command continues from "
            "the newest checkpoint.",
            terminal.FAILED,
        )
    except BrokenPipeError:  # the reader of standard output has left
        raise
    except OSError as error:
        return terminal.fail(
            f"stopped, {error}. Once that can be written again, the same command continues from "
            "the newest checkpoint.",
            terminal.FAILED,
        )
    except strategies.WORKER_GONE as error:
        return _without_a_worker(settings, error)
    except KeyboardInterrupt:
        return terminal.fail(signals.line_of(signal.SIGINT, _CONTINUES), terminal.INTERRUPTED)
    return 0


def _without_a_worker(settings: Settings, error: Exception) -> int:
    """Says that another worker is gone, or raises the error where there are no others."""
    if settings.strategy != "multi_worker":
        raise error
    return terminal.fail(
        f"stopped, another worker is gone ({type(error).__name__}). The same command on every"
        " worker continues from the newest checkpoint.",
        terminal.FAILED,
    )


COMMAND = COMMANDS["train"]
