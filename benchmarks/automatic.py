"""Compares the automatic settings with hand-picked ones on a small folder of pictures.

    python benchmarks/automatic.py --pictures=cifar10_jpeg --output=runs/automatic

The folder `--pictures` has train/<class>/*.jpg and test/<class>/*.jpg, such as CIFAR-10 as JPEG
files. For each seed, a folder is drawn from it: five classes with 40, 22, 12, 7 and 4 labeled
pictures, 800 unlabeled pictures in the same proportions, and 300 test pictures of each class. Every
setting is trained on it with the same command, export included. The settings of the grid take the
number of steps that is chosen for them, unless they name it. The features of a frozen encoder are
computed by the first run that needs them, which the minutes show.

Each finished run is a line in `rows.jsonl`. The same command again repeats only the runs that are
not finished, so that the minutes are those of whole runs. Further flags go to every run:
`--steps=20 --evaluate_every=10` shows in some minutes that everything works.

`--setting="NAME: FLAGS"`, once or more, replaces the grid; `--setting="automatic: "` alone trains
the automatic settings.
"""

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean

import tqdm

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ("airplane", "automobile", "bird", "cat", "deer")
LABELED = (40, 22, 12, 7, 4)
UNLABELED = (376, 207, 113, 66, 38)
TEST = 300
AUTOMATIC = "automatic: "
# What someone would try by hand: other methods, networks, rates and lengths, and no frozen encoder.
# What a setting does not name is chosen automatically.
GRID = (
    "labels only: --learner=supervised",
    "fixmatch: --pseudo_labeler=linear",
    "fixmatch + daso: --pseudo_labeler=daso",
    "fixmatch + freematch: --pseudo_labeler=linear --threshold=freematch",
    "fixmatch + simpro: --pseudo_labeler=simpro",
    "no adapter: --adapter=none",
    "wide adapter: --adapter_units=1024",
    "learning rate 0.1: --learning_rate=0.1",
    "learning rate 0.01: --learning_rate=0.01",
    "weight decay 0.001: --weight_decay=0.001",
    "weight decay 0.1: --weight_decay=0.1",
    "unlabeled weight 1: --unlabeled_weight=1",
    "unlabeled weight 4: --unlabeled_weight=4",
    "400 steps: --steps=400",
    "2,000 steps: --steps=2000",
    "128 pixels: --resolution=128",
    "from scratch: --pseudo_labeler=daso --nofreeze_encoder --encoder=wrn_10_2 --resolution=16"
    " --steps=800",
)


def main() -> int:
    """Trains the runs that are not finished and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=Path, required=True, help="train/<class>, test/<class>")
    parser.add_argument("--output", type=Path, required=True, help="folder of data, runs and rows")
    parser.add_argument("--seeds", type=int, default=3, help="folders and runs of each setting")
    parser.add_argument("--setting", action="append", help="NAME: FLAGS, instead of the grid")
    arguments, flags = parser.parse_known_args()
    settings = dict(text.split(": ", 1) for text in arguments.setting or (AUTOMATIC, *GRID))
    runs = [(name, seed) for seed in range(arguments.seeds) for name in settings]
    path = arguments.output / "rows.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    finished = {(row["setting"], row["seed"]) for row in rows}
    for name, seed in tqdm.tqdm([run for run in runs if run not in finished], desc="runs"):
        data_dir = arguments.output / f"pictures_{seed}"
        if not data_dir.exists():
            make_folder(arguments.pictures, data_dir, seed)
        model_dir = arguments.output / f"{name.replace(' ', '_')}_{seed}"
        rows.append(
            {"setting": name, "seed": seed}
            | train(data_dir, model_dir, [*settings[name].split(), f"--seed={seed}", *flags])
        )
        with path.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
    print(
        table([row for row in rows if row["setting"] in settings and row["seed"] < arguments.seeds])
    )
    return 0


def make_folder(pictures: Path, folder: Path, seed: int) -> None:
    """Draws the pictures of one seed; the folder is complete or absent."""
    draw, parts = random.Random(seed), folder.with_name(f"{folder.name}.part")
    shutil.rmtree(parts, ignore_errors=True)
    for name, labeled, unlabeled in zip(CLASSES, LABELED, UNLABELED, strict=True):
        files = draw.sample(sorted((pictures / "train" / name).iterdir()), labeled + unlabeled)
        copy(files[:labeled], parts / "train" / name)
        copy(files[labeled:], parts / "unlabeled", f"{name}_")
        copy(draw.sample(sorted((pictures / "test" / name).iterdir()), TEST), parts / "test" / name)
    parts.rename(folder)


def copy(files: list[Path], folder: Path, prefix: str = "") -> None:
    """Copies files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copyfile(file, folder / f"{prefix}{file.name}")


def train(data_dir: Path, model_dir: Path, flags: list[str]) -> dict:
    """Trains one run from the beginning to the export; returns its scores and its minutes."""
    shutil.rmtree(model_dir, ignore_errors=True)
    model_dir.mkdir(parents=True)
    command = [sys.executable, "-m", "daso_tf.train", "--dataset=image_folder"]
    command += [f"--data_dir={data_dir}", f"--model_dir={model_dir}", *flags]
    start, used = time.monotonic(), processor_seconds()
    with (model_dir / "log.txt").open("w") as log:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed; see {model_dir / 'log.txt'}")
    results = json.loads((model_dir / "results.json").read_text())
    last = results["evaluations"][-1]["test"]
    return {
        "steps": results["exported"]["step"],
        "exported": 100 * results["exported"]["test"]["accuracy"],
        "logit_adjusted": 100 * last["logit_adjusted"]["accuracy"],
        "recall": [round(100 * share, 1) for share in results["exported"]["test"]["recall"]],
        "minutes": (time.monotonic() - start) / 60,
        "core_minutes": (processor_seconds() - used) / 60,
    }


def processor_seconds() -> float:
    """Returns the processor time of the child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def table(rows: list[dict]) -> str:
    """Returns the means over the seeds as a Markdown table, in the order of the settings."""
    lines = [
        "| setting | seeds | steps | exported answer, % | by seed | logit-adjusted, % | minutes |"
        " core minutes |",
        "|---" * 8 + "|",
    ]
    for name in dict.fromkeys(row["setting"] for row in rows):
        of = [row for row in rows if row["setting"] == name]
        by_seed = ", ".join(f"{row['exported']:.1f}" for row in of)
        lines.append(
            f"| {name} | {len(of)} | {mean(row['steps'] for row in of):,.0f} |"
            f" {mean(row['exported'] for row in of):.1f} | {by_seed} |"
            f" {mean(row['logit_adjusted'] for row in of):.1f} |"
            f" {mean(row['minutes'] for row in of):.1f} |"
            f" {mean(row['core_minutes'] for row in of):.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
