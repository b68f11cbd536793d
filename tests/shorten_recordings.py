"""Writes `tests/data/recorded/`: the first steps of recordings that are too large for it.

    python tests/shorten_recordings.py FOLDER

FOLDER has the recordings of all methods, in `learners/`, `newer/`, `rebalancers/` and
`thresholds/`. What a file has of the end of its run is left out. Recordings that begin with the
same network name a common file of its weights instead (`init_file`).
"""

import json
import sys
from pathlib import Path

import numpy as np

TARGET = Path(__file__).parent / "data/recorded"
# The steps that are kept, from the first one on.
NETWORK_STEPS = {
    "learners/supervised_la": 2,
    "learners/pseudo_label": 3,
    "learners/mean_teacher_daso": 4,
    "learners/mixmatch": 3,
    "learners/remixmatch": 3,
    "learners/remixmatch_daso_da": 4,
    "rebalancers/supervised_schedule": 10,
    "rebalancers/supervised_ldam_from_start": 3,
    "rebalancers/daso_abc": 4,
    "rebalancers/fixmatch_darp": 5,
    "rebalancers/fixmatch_crest_plus": 6,  # the last one is of the second generation
    "rebalancers/usadtm_full_queues": 4,
}
LOGIT_STEPS = {
    "thresholds/abc": 8,
    "thresholds/alignment": 8,
    "thresholds/cossl": 8,
    "thresholds/debiaspl_authors_m9": 8,
    "thresholds/flexmatch_usb": 8,
    "thresholds/freematch_usb_m9": 8,
    "thresholds/softmatch_usb_m9_uniform": 8,
}
WHOLE = (
    *(f"newer/{method}_method" for method in ("acr", "adello", "cdmad", "simpro")),
    "thresholds/adsh_head_never_sure",
    "thresholds/adsh_tail_unsure",
    "thresholds/adsh_usual",
    "thresholds/saw",
)
FUNCTIONS = (
    *("darp/lt/", "darp/sure/", "estimate/", "tmi/soft/", "ldam/", "built/", "crest/a2/"),
    *("crest/temperatures", "template/", "align/", "remix_crest/"),
)


def main(folder: Path) -> None:
    """Writes all files.

    Args:
        folder: The folder of the whole recordings.
    """
    networks: dict[str, dict[str, np.ndarray]] = {}
    for name, steps in NETWORK_STEPS.items():
        trace = load(folder / f"{name}.npz")
        config = json.loads(str(trace["config"])) | {"steps": steps}
        kept = {key: trace[key] for key in trace if key.startswith("init")}
        kept |= {
            f"step{step:03d}/{key.partition('/')[2]}": trace[key]
            for step in range(steps)
            for key in trace
            if key.startswith(f"step{step:03d}/")
        }
        kept |= {
            key: trace[key]
            for key in trace
            if key.startswith("generation1/") and not key.startswith("generation1/ema/")
        }
        group = name.partition("/")[0]
        common = networks.setdefault(
            group, {k: v for k, v in kept.items() if k.startswith("init/")}
        )
        kept = {
            key: value
            for key, value in kept.items()
            if key not in common or not np.array_equal(value, common[key])
        }
        kept["init_file"] = np.array(f"{group}.weights")
        kept["config"] = np.array(json.dumps(config))
        save(TARGET / f"{name}.npz", kept)
    for group, weights in networks.items():
        save(TARGET / group / f"{group}.weights", weights)
    for name, steps in LOGIT_STEPS.items():
        trace = load(folder / f"{name}.npz")
        count = len(trace["weak" if "weak" in trace else "strong"])
        save(
            TARGET / f"{name}.npz",
            {
                key: value[:steps] if value.ndim and len(value) == count else value
                for key, value in trace.items()
                if not key.endswith("_after_last")
            },
        )
    for name in WHOLE:
        save(TARGET / f"{name}.npz", load(folder / f"{name}.npz"))
    functions = load(folder / "rebalancers/functions.npz")
    kept = {key: value for key, value in functions.items() if key.startswith(FUNCTIONS)}
    save(TARGET / "rebalancers/functions.npz", kept)


def load(path: Path) -> dict[str, np.ndarray]:
    """Reads all arrays of an archive."""
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes an archive; arrays of float64, but not single numbers, become float32."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = {
        key: value.astype(np.float32) if value.dtype == np.float64 and value.ndim else value
        for key, value in arrays.items()
    }
    with path.open("wb") as file:
        np.savez_compressed(file, **small)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
