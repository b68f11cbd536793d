"""Measures DASO with `--distribution_temperature=auto` against the two values of the paper.

    python benchmarks/distribution_temperature.py --data_dir=cifar10_jpeg --output=runs/temperature

FixMatch + DASO by the protocol of benchmarks/scoreboard.py, on one of its tracks, with consistent,
uniform and reversed unlabeled images. Which of 0.3 and 1.5 is better depends on a distribution that
nobody knows; `auto` chooses by an estimate during training. Each finished run leaves a file, and
the same command trains only what is missing. Prints the balanced accuracy of each temperature, and
the mean of the paired differences of `auto` to the better one of the two, with standard error.
Further flags go to every run.
"""

import argparse
import json
import os
from pathlib import Path
from statistics import mean, stdev

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tqdm
from scoreboard import DISTRIBUTIONS, METHODS, STEPS, TRACKS, Run, positive, train

DASO = dict(text.split(": ", 1) for text in METHODS)["fixmatch + daso"]
TEMPERATURES = ("0.3", "1.5", "auto")
VALIDATION = "--validation_size=200"  # pictures by which `auto` estimates; all runs set them aside
EVALUATIONS = 20  # `auto` estimates at each of them, from `--estimate_start` on


def main() -> None:
    """Trains the runs that are missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", type=Path, required=True, help="train/<class>, test/<class>")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--track", choices=list(TRACKS), default="features")
    parser.add_argument("--seeds", type=positive, default=5, help="runs with --seed=0, 1, ...")
    arguments, flags = parser.parse_known_args()
    runs = {
        (seed, distribution, temperature): Run(arguments.track, distribution, temperature, seed)
        for seed in range(arguments.seeds)
        for distribution in DISTRIBUTIONS
        for temperature in TEMPERATURES
    }
    accuracy = {}
    for key, run in tqdm.tqdm(runs.items(), desc="runs", disable=None):
        row = run.folder(arguments.output) / "row.json"
        if not row.exists():
            every = f"--evaluate_every={STEPS[run.track] // EVALUATIONS}"
            more = [DASO, VALIDATION, every, f"--distribution_temperature={run.method}", *flags]
            train(run, " ".join(more), arguments.data_dir, arguments.output)
        accuracy[key] = json.loads(row.read_text())["balanced"]
    print(f"| {arguments.track} | {' | '.join(TEMPERATURES)} | auto - better one |")
    print("|---|---|---|---|---|")
    differences = []
    for distribution in DISTRIBUTIONS:
        of = [
            [accuracy[seed, distribution, name] for name in TEMPERATURES]
            for seed in range(arguments.seeds)
        ]
        # The better one on average: the best of each seed would be better by chance alone.
        better = max((0, 1), key=lambda place: mean(row[place] for row in of))
        paired = [row[2] - row[better] for row in of]
        differences += paired
        cells = (f"{mean(values):.1f}" for values in zip(*of, strict=True))
        print(f"| {distribution} | {' | '.join(cells)} | {with_error(paired)} |")
    print(f"\nAll together: {with_error(differences)} over {len(differences)} pairs.")


def with_error(values: list[float]) -> str:
    """Returns mean and standard error of some differences."""
    error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{mean(values):+.2f} ± {error:.2f}"


if __name__ == "__main__":
    main()
