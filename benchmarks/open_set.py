"""Measures `--open_set` where the unlabeled pictures are mixed with pictures of no class.

    python benchmarks/open_set.py --pictures=cifar10_jpeg --output=runs/open_set

The folder `--pictures` has train/<class>/*.jpg and test/<class>/*.jpg, such as CIFAR-10 as JPEG
files. For each seed, a folder is drawn from it: six known classes with 200 to 20 labeled and 800 to
80 unlabeled pictures, 30 validation and 300 test pictures of each; as many unlabeled pictures of
four other classes as of the known ones; and 450 test pictures of each of these in test/_unknown.

Each finished run is a line in `rows.jsonl`: accuracy on the known classes, the AUROC of every
score, and the shares of the unlabeled pictures that the run's own limit rejects. The same command
again continues with the runs that are not finished. `--network=scratch` trains a small network from
scratch instead of one on frozen features. `--fewer` adds a table of the same networks with
`relative_distance` fitted to fewer unlabeled pictures. Further flags go to every run.
"""

import argparse
import dataclasses
import json
import os
import random
import shutil
import sys
import time
from itertools import islice
from pathlib import Path
from statistics import mean

import numpy as np
import tqdm
from automatic import copy
from sklearn.metrics import roc_auc_score

from daso_tf.run import run as run_of
from daso_tf.run.open_set import Detector, score_of
from daso_tf.run.preparation import prepare
from daso_tf.settings.flags import TRAIN
from daso_tf.settings.methods import OPEN_SETS
from daso_tf.settings.settings import parse

KNOWN = ("airplane", "automobile", "bird", "cat", "deer", "dog")
OTHERS = ("frog", "horse", "ship", "truck")
LABELED, UNLABELED = 200, 800  # of the largest known class; the smallest has a tenth
VALIDATION, TEST, TEST_OTHERS = 30, 300, 450  # of each class
NETWORKS = {
    "frozen": "--freeze_encoder --unlabeled_ratio=2 --steps=600 --evaluate_every=100",
    "scratch": "--encoder=wrn_28_1 --resolution=16 --batch_size=32 --unlabeled_ratio=2 --steps=300"
    " --evaluate_every=50",
}
SETTINGS = {
    "fixmatch": "--learner=fixmatch --pseudo_labeler=linear",
    "fixmatch, --open_set": "--learner=fixmatch --pseudo_labeler=linear --open_set",
    "fixmatch + daso": "--learner=fixmatch --pseudo_labeler=daso",
    "fixmatch + daso, --open_set": "--learner=fixmatch --pseudo_labeler=daso --open_set",
}
# What the papers state in epochs is the same share of these runs as in benchmarks/scoreboard.py.
NEWER = {
    "simpro": "--pseudo_labeler=simpro",
    "adello": "--pseudo_labeler=adello --adello_distill_after=120",
    "acr": "--pseudo_labeler=linear --balanced_head=acr --epoch_steps=30 --acr_estimate_after=1",
    "cdmad": "--pseudo_labeler=cdmad --epoch_steps=30 --cdmad_debias_after=4",
}
for _name, _flags in NEWER.items():
    SETTINGS[f"fixmatch + {_name}"] = f"--learner=fixmatch {_flags}"
    SETTINGS[f"fixmatch + {_name}, --open_set"] = f"--learner=fixmatch {_flags} --open_set"


def main() -> int:
    """Trains the runs that are not finished and prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=Path, required=True, help="train/<class>, test/<class>")
    parser.add_argument("--output", type=Path, required=True, help="folder of data, runs and rows")
    parser.add_argument("--network", choices=NETWORKS, default="frozen")
    parser.add_argument("--seeds", type=int, default=1, help="folders and runs of each setting")
    parser.add_argument("--setting", action="append", help="NAME: FLAGS, instead of these")
    parser.add_argument("--fewer", type=int, nargs="+", default=[], help="unlabeled pictures")
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
        rows.append(row | train(data_dir, model_dir, of_run, arguments.fewer))
        with path.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
    print("\n\n".join(tables([row for row in rows if row["network"] == arguments.network])))
    return 0


def make_folder(pictures: Path, folder: Path, seed: int) -> None:
    """Draws the pictures of one seed; the folder is complete or absent."""
    draw, parts = random.Random(seed), folder.with_name(f"{folder.name}.part")
    shutil.rmtree(parts, ignore_errors=True)

    def shuffled(part: str, name: str) -> list[Path]:
        files = sorted((pictures / part / name).iterdir())
        draw.shuffle(files)
        return files

    others = 0
    for rank, name in enumerate(KNOWN):
        share = (1 / 10) ** (rank / (len(KNOWN) - 1))
        labeled, unlabeled = int(LABELED * share), int(UNLABELED * share)
        files = iter(shuffled("train", name))
        copy(list(islice(files, VALIDATION)), parts / "validation" / name)
        copy(list(islice(files, labeled)), parts / "train" / name)
        copy(list(islice(files, unlabeled)), parts / "unlabeled", f"{name}_")
        copy(shuffled("test", name)[:TEST], parts / "test" / name)
        others += unlabeled
    for name in OTHERS:
        files = iter(shuffled("train", name))
        copy(list(islice(files, others // len(OTHERS))), parts / "unlabeled", f"{name}_")
        copy(shuffled("test", name)[:TEST_OTHERS], parts / "test" / "_unknown", f"{name}_")
    parts.rename(folder)


def train(data_dir: Path, model_dir: Path, flags: list[str], fewer: list[int]) -> dict:
    """Trains a run, or the rest of it; returns its scores, and those of images of no class."""
    places = ["--dataset=image_folder", f"--data_dir={data_dir}", f"--model_dir={model_dir}"]
    settings, _ = parse([*places, *flags], TRAIN.values())
    start = time.monotonic()
    run = run_of.train(prepare(settings))
    test = run.results.evaluations[-1]["test"]
    return {
        "own": run.settings.open_set_score if run.settings.open_set else None,
        "accuracy": 100 * test["accuracy"],
        "adjusted": 100 * test["logit_adjusted"]["accuracy"],
        "minutes": (time.monotonic() - start) / 60,
        "scores": {name: measured(run, name) for name in OPEN_SETS},
        "fewer": {str(n): measured(run, "relative_distance", n) for n in fewer},
    }


def measured(run: run_of.Run, name: str, unlabeled: int | None = None) -> dict:
    """Returns how well a score tells images of no class from those of the classes.

    Args:
        run: A finished run.
        name: That of the score.
        unlabeled: Number of unlabeled images that are left for the score; None for all.
    """
    settings, data, learner = run.settings, run.data, run.learner
    known = np.array([os.path.basename(file).startswith(KNOWN) for file in data.unlabeled.files])
    if unlabeled is not None:
        kept = np.random.default_rng(0).permutation(len(known))[:unlabeled]
        data = dataclasses.replace(data, unlabeled=data.unlabeled.subset(kept))
        known = known[kept]
    own, learner.open_set = learner.open_set, None
    score = score_of(settings.replace(open_set_score=name), data, learner)
    learner.open_set = own
    detector = Detector(learner, score, data, settings.evaluation_batch_size)
    detector.fit()
    scores = detector.scores(data.unlabeled)
    rejected = score.is_unknown(scores).numpy()
    # What the limit would reject if it were set by the labeled images, which the network knows.
    score.set_limit(detector.scores(data.labeled))
    by_labeled = score.is_unknown(detector.scores(data.test)).numpy()
    detector.fit()
    return {
        **detector.measured(),
        "auroc_unlabeled": float(roc_auc_score(~known, scores)),
        "rejected_unlabeled_known": float(rejected[known].mean()),
        "rejected_unlabeled_unknown": float(rejected[~known].mean()),
        "rejected_test_by_labeled": float(by_labeled.mean()),
    }


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
        "rejected_test_by_labeled",
    )
    head = (
        f"| setting | score | {' | '.join(name.replace('_', ' ') for name in columns)} |",
        "|---" * (2 + len(columns)) + "|",
    )
    of_scores, of_fewer = [*head], [*head]

    def line(name: str, score: str, measures: list[dict]) -> str:
        values = [mean(of[column] for of in measures) for column in columns]
        return f"| {name} | {score} | {' | '.join(f'{value:.3f}' for value in values)} |"

    for name, of in by_name.items():
        for score in OPEN_SETS:
            of_scores.append(line(name, score, [row["scores"][score] for row in of]))
        fewer = [row["fewer"] for row in of if row.get("fewer")]
        for count in fewer[0] if fewer else ():
            score = f"relative_distance, {count} unlabeled"
            of_fewer.append(line(name, score, [row[count] for row in fewer]))
    found = [lines, of_scores, *([of_fewer] if len(of_fewer) > len(head) else [])]
    return ["\n".join(table) for table in found]


if __name__ == "__main__":
    sys.exit(main())
