"""Every recorded run of a published implementation replays within its tolerances.

`tests/data/` has recordings of every learner and every rebalancer, most of them the first steps of
a longer one. The whole ones, and more, are in the folder that the environment variable
`DASO_TF_RECORDINGS` names.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from daso_tf.commands.replay import UnknownRecordingError, replay_file
from daso_tf.settings.methods import BALANCED_HEADS, LEARNERS, THRESHOLDS

DATA = Path(__file__).parent / "data"
OWN = sorted(DATA.glob("*.npz"))
SHORTENED = {
    path.relative_to(DATA / "recorded"): path for path in (DATA / "recorded").rglob("*.npz")
}
FOLDER = os.environ.get("DASO_TF_RECORDINGS")
WHOLE = {path.relative_to(FOLDER): path for path in Path(FOLDER).rglob("*.npz")} if FOLDER else {}
# A whole recording says everything that its first steps say.
ALL = [*OWN, *(path for _, path in sorted((SHORTENED | WHOLE).items()))]
# Their implementations differ from the library by design.
DIFFERENT = {
    "abc",
    "abc_authors",
    "adsh_head_never_sure",
    "crt",
    "fixmatch_crest_plus",
    "fixmatch_darp_phase",
    "supervised_class_balanced",
    "supervised_ldam",
}


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_recording(path):
    try:
        result = replay_file(path)
    except UnknownRecordingError as reason:
        assert path not in {*OWN, *SHORTENED.values()}
        pytest.skip(f"no recording of a method of the library: {reason}")
    assert not result.exceeded
    assert not result.unread
    assert result.differs == (path.stem in DIFFERENT)


def test_first_steps_with_a_common_network():
    """They are replayed even where the whole recordings are."""
    result = replay_file(SHORTENED[Path("learners/supervised_la.npz")])
    assert not result.exceeded
    assert {found.name for found in result.quantities} == {"loss_cls", "grad_norm", "lr"}


def test_folder_of_recordings_exists():
    if FOLDER is None:
        pytest.skip("DASO_TF_RECORDINGS is not set")
    assert WHOLE, f"DASO_TF_RECORDINGS={FOLDER} has no recordings"


def test_every_method_has_a_recording():
    methods = set()
    for path in (*OWN, *SHORTENED.values()):
        with np.load(path, allow_pickle=False) as archive:
            if "config" in archive:
                config = json.loads(str(archive["config"]))
                methods |= set(config.get("method", "").split("_"))
                methods |= {config.get(key) for key in ("learner", "supervised_loss")}
                methods |= {"logit_adjustment"} if config.get("la_tau") else set()
            else:
                methods |= {*path.stem.split("_"), *(key.split("/")[0] for key in archive)}
    # The only recording of crt differs by design; student is described by a study, not by code.
    learners = set(LEARNERS) - {"crt", "student"}
    assert methods >= learners
    assert methods >= set(BALANCED_HEADS) - {"none"}
    assert methods >= set(THRESHOLDS) - {"fixed"}  # FixMatch's recordings have it
    assert methods >= {"darp", "crest", "ldam", "logit_adjustment", "debiaspl", "built", "align"}
