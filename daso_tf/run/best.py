"""Which evaluation is the best, and whether a run has stopped making progress."""

from __future__ import annotations

from daso_tf.run.checkpoints import Checkpoints
from daso_tf.run.results import Results
from daso_tf.settings.settings import Settings


def best_step(results: Results, checkpoints: Checkpoints) -> int:
    """Returns the step with the best validation result, which must have a checkpoint."""
    step = results.best_step()
    if step is None:
        raise ValueError(f"--best: {results.path} has no evaluations of validation images.")
    if step not in checkpoints.steps():
        raise ValueError(
            f"--best: step {step} is the best of {checkpoints.directory.parent}, but its "
            "checkpoint is gone: it is kept if the run is started with --best. There are "
            f"checkpoints of the steps {', '.join(map(str, checkpoints.steps()))}."
        )
    return step


def is_over(settings: Settings, results: Results) -> bool:
    """Whether the run has made no progress for `--stop_after` evaluations."""
    return 0 < settings.stop_after <= results.without_progress()
