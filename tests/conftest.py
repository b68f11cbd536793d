"""What several test files share."""

import contextlib
import io
from pathlib import Path
from typing import NamedTuple

import pytest
from command import arguments, run_train


class FinishedRun(NamedTuple):
    """A run of the train command that nobody changes."""

    model_dir: Path
    exit_code: int
    output: str


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> FinishedRun:
    """Five steps on the digits, evaluated after steps 2, 4 and 5, then exported."""
    model_dir = tmp_path_factory.mktemp("finished") / "run"
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exit_code = run_train(
            *arguments(model_dir=model_dir, steps=5, evaluate_every=2, test_images=3)
        )
    return FinishedRun(model_dir, exit_code, output.getvalue())
