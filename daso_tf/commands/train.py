"""Trains a learner: `daso-tf train --flagfile=digits_lt.cfg`.

The same command again continues the run in `--model_dir`. Exit code: 0 finished, 1 stopped by a
loss that is not finite or by image files that cannot be read, 2 a setting or the data cannot be
used, 130 interrupted.
"""

from __future__ import annotations

from daso_tf.commands import terminal
from daso_tf.data import DataError
from daso_tf.platform import strategies
from daso_tf.run.checkpoints import NonFiniteError
from daso_tf.run.lock import one_run
from daso_tf.run.run import finish, prepare, train
from daso_tf.settings.flags import SECTIONS, complete
from daso_tf.settings.settings import Settings


def main(settings: Settings, arguments: list[str]) -> int:
    """Prepares, trains and finishes a run.

    Args:
        settings: Those of the run.
        arguments: There are none.

    Returns:
        The exit code.
    """
    settings = complete(settings)
    with one_run(settings):
        return _train(settings)


def _train(settings: Settings) -> int:
    run = prepare(settings)
    try:
        run = train(run)
        finish(run)
        strategies.wait_for_chief(run.strategy)
    except NonFiniteError as error:
        message = f"stopped, {error}. The checkpoints in {run.model_dir} are from before."
        return terminal.fail(message, terminal.FAILED)
    except DataError as error:
        return terminal.fail(
            f"stopped, {error}\nRepair or remove the files; then the same command continues from "
            "the newest checkpoint.",
            terminal.FAILED,
        )
    except strategies.WORKER_GONE as error:
        if settings.strategy != "multi_worker":
            raise
        return terminal.fail(
            f"stopped, another worker is gone ({type(error).__name__}). The same command on every"
            " worker continues from the newest checkpoint.",
            terminal.FAILED,
        )
    except KeyboardInterrupt:
        return terminal.fail(
            "interrupted; the same command continues from the newest checkpoint",
            terminal.INTERRUPTED,
        )
    return 0


COMMAND = terminal.Command("train", main, SECTIONS)
