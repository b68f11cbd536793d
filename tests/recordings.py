"""Recordings of other implementations, which are not part of the repository."""

import os
from pathlib import Path

import numpy as np
import pytest


def recorded(name):
    """Returns the arrays of a recording, or skips the test where it is not there.

    Args:
        name: Its path within the folder that the environment variable DASO_TF_RECORDINGS names.
    """
    folder = os.environ.get("DASO_TF_RECORDINGS")
    if not folder:
        pytest.skip("DASO_TF_RECORDINGS does not name the folder of the recordings")
    path = Path(folder, name)
    if not path.exists():
        pytest.skip(f"the folder of the recordings has no {name}")
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def assert_close(ours, theirs, tolerance=2e-5):
    """Compares values, relative to the largest recorded one."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())
