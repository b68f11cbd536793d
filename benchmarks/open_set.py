"""Measures `--open_set` where the unlabeled pictures are mixed with pictures of no class.

    python benchmarks/open_set.py --pictures=cifar10_jpeg --output=runs/open_set

The folder `--pictures` has train/<class>/*.jpg and test/<class>/*.jpg, such as CIFAR-10 as JPEG
files. For each seed, a folder is drawn from it: six known classes with 200 to 20 labeled and 800 to
80 unlabeled pictures, 30 validation and 300 test pictures of each; as many unlabeled pictures of
four other classes as of the known ones; and 450 test pictures of each of these in test/_unknown.

Each finished run is a line in `rows.jsonl`: accuracy on the known classes, the AUROC of every
score, and the shares of the unlabeled pictures that the run's own limit rejects. The same command
again repeats only the runs that are not finished. `--network=scratch` trains a small network from
scratch instead of one on frozen features. Further flags go to every run.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean

import numpy as np
import tqdm
from automatic import copy
from sklearn.metrics import roc_auc_score

from daso_tf.platform import strategies
from daso_tf.run import banks
from daso_tf.run.checkpoints import Checkpoints
from daso_tf.run.learner import restored
from daso_tf.run.open_set import Detector, score_of
from daso_tf.run.preparation import load_data
from daso_tf.settings.flags import TRAIN, complete
from daso_tf.settings.methods import OPEN_SETS
from daso_tf.settings.settings import parse

ROOT = Path(__file__).resolve().parents[1]
KNOWN = ("airplane", "automobile", "bird", "cat", "deer", "dog")
OTHERS = ("frog", "horse", "ship", "truck")
LABELED, UNLABELED = 200, 800  # of the largest known class; the smallest has a tenth
VALIDATION, TEST, TEST_OTHERS = 30, 300, 450  # of each class
NETWORKS = {
    "frozen": "--freeze_encoder --evaluate_every=100",
    "scratch": "--encoder=wrn_28_1 --resolution=16 --batch_size=32 --unlabeled_ratio=2 --steps=400"
    " --evaluate_every=50",
}
SETTINGS = {
    "fixmatch": "--learner=fixmatch --pseudo_labeler=linear",
    "fixmatch, --open_set": "--learner=fixmatch --pseudo_labeler=linear --open_set",
    "fixmatch + daso": "--learner=fixmatch --pseudo_labeler=daso",
    "fixmatch + daso, --open_set": "--learner=fixmatch --pseudo_labeler=daso --open_set",
}


def main() -> int:
    """Trains the runs that are not finished and prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=Path, required=True, help="train/<class>, test/<class>")
    parser.add_argument("--output", type=Path, required=True, help="folder of data, runs and rows")
    parser.add_argument("--network", choices=NETWORKS, default="frozen")
    parser.add_argument("--seeds", type=int, default=1, help="folders and runs of each setting")
    parser.add_argument("--setting", action="append", help="NAME: FLAGS, instead of the four")
    arguments, flags = parser.parse_known_args()
    settings = SETTINGS
    if arguments.setting:
        settings = dict(text.split(": ", 1) for text in arguments.setting)
    path = arguments.output / "rows.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    finished = {(row["network"], row["setting"], row["seed"]) for row in rows}
    runs = [(arguments.network, name, seed) for seed in range(arguments.seeds) for name in settings]
    for network, name, seed in tqdm.tqdm([run for run in runs if run not in finished], desc="runs"):
        data_dir = arguments.output / f"pictures_{seed}"
        if not data_dir.exists():
            make_folder(arguments.pictures, data_dir, seed)
        words = "".join(c if c.isalnum() else "_" for c in name)
        model_dir = arguments.output / f"{network}_{words}_{seed}"
        of_run = [*NETWORKS[network].split(), *settings[name].split(), f"--seed={seed}", *flags]
        row = {"network": network, "setting": name, "seed": seed}
        rows.append(row | train(data_dir, model_dir, of_run) | measured(model_dir))
        with path.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
    print("\n\n".join(tables([row for row in rows if row["network"] == arguments.network])))
    return 0


def make_folder(pictures: Path, folder: Path, seed: int) -> None:
    """Draws the pictures of one seed; the folder is complete or absent."""
    draw, parts = random.Random(seed), folder.with_name(f"{folder.name}.part")
    shutil.rmtree(parts, ignore_errors=True)

    def drawn(part: str, name: str, count: int) -> list[Path]:
        return draw.sample(sorted((pictures / part / name).iterdir()), count)

    others = 0
    for rank, name in enumerate(KNOWN):
        share = (1 / 10) ** (rank / (len(KNOWN) - 1))
        labeled, unlabeled = int(LABELED * share), int(UNLABELED * share)
        files = drawn("train", name, VALIDATION + labeled + unlabeled)
        copy(files[:VALIDATION], parts / "validation" / name)
        copy(files[VALIDATION : VALIDATION + labeled], parts / "train" / name)
        copy(files[VALIDATION + labeled :], parts / "unlabeled", f"{name}_")
        copy(drawn("test", name, TEST), parts / "test" / name)
        others += unlabeled
    for name in OTHERS:
        copy(drawn("train", name, others // len(OTHERS)), parts / "unlabeled", f"{name}_")
        copy(drawn("test", name, TEST_OTHERS), parts / "test" / "_unknown", f"{name}_")
    parts.rename(folder)


def train(data_dir: Path, model_dir: Path, flags: list[str]) -> dict:
    """Trains one run from the beginning to the export; returns its scores and its minutes."""
    shutil.rmtree(model_dir, ignore_errors=True)
    model_dir.mkdir(parents=True)
    command = [sys.executable, "-m", "daso_tf.train", "--dataset=image_folder", "--noreport"]
    command += [f"--data_dir={data_dir}", f"--model_dir={model_dir}", *flags]
    start = time.monotonic()
    with (model_dir / "log.txt").open("w") as log:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed; see {model_dir / 'log.txt'}")
    test = json.loads((model_dir / "results.json").read_text())["evaluations"][-1]["test"]
    return {
        "accuracy": 100 * test["accuracy"],
        "adjusted": 100 * test["logit_adjusted"]["accuracy"],
        "minutes": (time.monotonic() - start) / 60,
    }


def measured(model_dir: Path) -> dict:
    """Returns the AUROC of every score, and what the score of the run rejects."""
    settings, _ = parse([f"--flagfile={model_dir / 'flags.cfg'}"], TRAIN.values())
    settings = complete(settings)
    checkpoints = Checkpoints(model_dir / "checkpoints")
    data = banks.banked(settings, load_data(settings, checkpoints).data)
    strategy = strategies.make("none")
    learner = restored(settings, data, checkpoints, strategy, checkpoints.newest_step())
    own, learner.open_set = learner.open_set, None
    found = {}
    for name in OPEN_SETS:
        score = score_of(settings.replace(open_set_score=name), data, learner)
        detector = Detector(learner, score, data, settings.evaluation_batch_size)
        detector.fit()
        found[name] = detector.measured()
        scores = detector.scores(data.unlabeled)
        known = np.array(
            [os.path.basename(file).startswith(KNOWN) for file in data.unlabeled.files]
        )
        rejected = score.is_unknown(scores).numpy()
        found[name] |= {
            "auroc_unlabeled": float(roc_auc_score(~known, scores)),
            "rejected_unlabeled_known": float(rejected[known].mean()),
            "rejected_unlabeled_unknown": float(rejected[~known].mean()),
        }
    return {"own": None if own is None else settings.open_set_score, "scores": found}


def tables(rows: list[dict]) -> list[str]:
    """Returns the tables of the settings and of the scores, as Markdown, means over the seeds."""
    names = list(dict.fromkeys(row["setting"] for row in rows))
    by_name = {name: [row for row in rows if row["setting"] == name] for name in names}
    lines = [
        "| setting | seeds | accuracy, % | balanced by logit adjustment, % | minutes |",
        "|---" * 5 + "|",
    ]
    for name, of in by_name.items():
        accuracy, adjusted, minutes = (
            mean(row[key] for row in of) for key in ("accuracy", "adjusted", "minutes")
        )
        lines.append(f"| {name} | {len(of)} | {accuracy:.1f} | {adjusted:.1f} | {minutes:.1f} |")
    columns = (
        "auroc",
        "auroc_unlabeled",
        "rejected_test",
        "rejected_unknown",
        "rejected_unlabeled_known",
        "rejected_unlabeled_unknown",
    )
    of_scores = [
        f"| setting | score | {' | '.join(name.replace('_', ' ') for name in columns)} |",
        "|---" * (2 + len(columns)) + "|",
    ]
    for name, of in by_name.items():
        for score in OPEN_SETS:
            values = [mean(row["scores"][score][column] for row in of) for column in columns]
            of_scores.append(
                f"| {name} | {score} | {' | '.join(f'{value:.3f}' for value in values)} |"
            )
    return ["\n".join(lines), "\n".join(of_scores)]


if __name__ == "__main__":
    sys.exit(main())
