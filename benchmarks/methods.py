"""Trains methods with the same seeds on the same data and compares their accuracy.

    python benchmarks/methods.py --flagfile=flags/digits_lt.cfg --output=runs/methods_digits
    python benchmarks/methods.py --flagfile=flags/digits_lt.cfg --output=runs/two --seeds=2 \
        --method="fixmatch: --pseudo_labeler=linear" --method="daso: --pseudo_labeler=daso"

A method is a name and its flags, which come after those of the flag file and of this command.
Writes `methods.md`, `methods.csv` and `methods.png` into the output folder, and each run into a
folder in it. `methods.html` shows all runs side by side, as `daso-tf report --compare` does. The
same command again continues the runs that are not finished. `--jobs` trains several runs at the
same time, each on its share of the processor's cores: small networks leave most of a second core
idle. `--compare=paper` adds a column with the figures of DASO's paper, medians of the last 20
evaluations, for runs that have the settings of one of its cells.
"""

import csv
import json
import os
import queue
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tqdm
from absl import flags
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from paper import published

from daso_tf.run.inspection.side_by_side import scored, write_comparison
from daso_tf.settings.flag import Flag, as_text, choice, integer, string
from daso_tf.settings.flags import TRAIN, complete
from daso_tf.settings.settings import Settings, parse

METHODS = [
    "supervised: --learner=supervised",
    "pseudo_label: --learner=pseudo_label --pseudo_labeler=linear",
    "mean_teacher: --learner=mean_teacher --pseudo_labeler=linear",
    "mean_teacher + daso: --learner=mean_teacher --pseudo_labeler=daso",
    "mixmatch: --learner=mixmatch --pseudo_labeler=linear",
    "mixmatch + daso: --learner=mixmatch --pseudo_labeler=daso",
    "remixmatch: --learner=remixmatch --pseudo_labeler=linear",
    "remixmatch + daso: --learner=remixmatch --pseudo_labeler=daso",
    "usadtm: --learner=usadtm --pseudo_labeler=linear",
    "fixmatch: --learner=fixmatch --pseudo_labeler=linear",
    "fixmatch + alignment: --learner=fixmatch --pseudo_labeler=distribution_alignment",
    "fixmatch + darp: --learner=fixmatch --pseudo_labeler=darp",
    "fixmatch + abc: --learner=fixmatch --pseudo_labeler=linear --balanced_head=abc",
    "fixmatch + daso: --learner=fixmatch --pseudo_labeler=daso",
    "fixmatch + daso + la: --learner=fixmatch --pseudo_labeler=daso --logit_adjustment=1",
    "fixmatch + daso + abc: --learner=fixmatch --pseudo_labeler=daso --balanced_head=abc",
    "fixmatch + crest: --learner=fixmatch --pseudo_labeler=crest",
    "fixmatch + crest_plus: --learner=fixmatch --pseudo_labeler=crest_plus",
    "fixmatch + debiaspl: --learner=fixmatch --pseudo_labeler=debiaspl",
    "fixmatch + flexmatch: --learner=fixmatch --pseudo_labeler=linear --threshold=flexmatch",
    "fixmatch + freematch: --learner=fixmatch --pseudo_labeler=linear --threshold=freematch",
    "fixmatch + softmatch: --learner=fixmatch --pseudo_labeler=linear --threshold=softmatch",
    "fixmatch + adsh: --learner=fixmatch --pseudo_labeler=linear --threshold=adsh",
    "fixmatch + saw: --learner=fixmatch --pseudo_labeler=linear --threshold=saw",
    "fixmatch + cossl: --learner=fixmatch --pseudo_labeler=linear --balanced_head=cossl",
    "fixmatch + la: --learner=fixmatch --pseudo_labeler=linear --logit_adjustment=1",
    "supervised + la: --learner=supervised --logit_adjustment=1",
    "supervised + class_balanced: --learner=supervised --supervised_loss=class_balanced",
    "supervised + ldam: --learner=supervised --supervised_loss=ldam",
]
COLUMNS = ("last", "median", "balanced", "head", "medium", "tail")

OWN_FLAGS = (
    string("output", None, "Required: folder of the runs and the tables."),
    Flag(
        "method",
        METHODS,
        "NAME: FLAGS, once per method.",
        flags.DEFINE_multi_string,
        shown_default="all of METHODS in this file",
    ),
    integer("seeds", 3, "[1, inf)", "Runs of each method, with --seed=0, 1, ..."),
    integer("jobs", 1, "[1, inf)", "Runs at the same time; 2 or more need Linux."),
    choice(
        "compare", "none", ["none", "paper"], "Published figures to print next to the measured."
    ),
)


def main(arguments: list[str]) -> int:
    """Trains the runs that are not finished, and writes the tables."""
    if {"--help", "-h"} & set(arguments):
        print(__doc__)
        for flag in OWN_FLAGS:
            print(f"  --{flag.name}  {flag.help}")
        print("\nAll other flags are those of `daso-tf train`.")
        return 0
    settings = parsed(arguments)
    output = Path(settings.output)
    methods = dict(text.split(": ", 1) for text in settings.method)
    reached = {name: [] for name in methods}
    runs = [(name, seed) for seed in range(settings.seeds) for name in methods]
    figures = None
    if settings.compare == "paper":
        figures = {name: figure(settings, more.split()) for name, more in methods.items()}

    def train_one(run: tuple[str, int]) -> Path:
        name, seed = run
        model_dir = output / f"{name.replace(' ', '')}_{seed}"
        train(model_dir, [*_common_flags(settings), *methods[name].split(), f"--seed={seed}"])
        return model_dir

    folders = []
    with side_by_side(settings.jobs) as pool:
        try:
            trained = pool.map(train_one, runs)
            for (name, _), model_dir in zip(tqdm.tqdm(runs, desc="runs"), trained, strict=True):
                folders.append(model_dir)
                reached[name].append(scores(json.loads((model_dir / "results.json").read_text())))
                write(output, {name: of for name, of in reached.items() if of}, figures)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if len(folders) > 1:
        write_comparison(output / "methods.html", scored(folders))
    print((output / "methods.md").read_text())
    return 0


def figure(settings: Settings, more: list[str]) -> str:
    """Returns the figure of the paper that belongs to a method, or "-"."""
    of_method, _ = parse([*_common_flags(settings), *more], TRAIN.values())
    cell = published(complete(of_method))
    return f"{cell.value} ({cell.table})" if cell else "-"


def parsed(arguments: list[str]) -> Settings:
    """Returns the settings of a command line, or exits with what is wrong with it."""
    try:
        settings, rest = parse(arguments, [*OWN_FLAGS, *TRAIN.values()])
    except flags.Error as error:
        raise SystemExit(f"{error} (--help lists the flags)") from error
    if rest:
        raise SystemExit(f"{rest[0]!r} is not a flag; settings are written --name=value.")
    if not settings.output:
        raise SystemExit("--output=FOLDER is missing, the folder of the runs and the tables.")
    for text in settings.method:
        if ": " not in text:
            raise SystemExit(f"--method={text!r} must be a name, a colon, a space and flags.")
    return settings


def side_by_side(jobs: int) -> ThreadPoolExecutor:
    """Returns a pool of `jobs` threads whose child processes each see a share of the cores."""
    if jobs == 1:
        return ThreadPoolExecutor(1)
    cores = sorted(os.sched_getaffinity(0))
    if jobs > len(cores):
        raise SystemExit(
            f"--jobs={jobs}, but there are {len(cores)} cores, and each job needs one."
        )
    shares = queue.SimpleQueue()
    for job in range(jobs):
        shares.put(cores[job::jobs])
    # In Linux each thread has its own set of cores, and a child process inherits it.
    return ThreadPoolExecutor(jobs, initializer=lambda: os.sched_setaffinity(0, shares.get()))


def train(model_dir: Path, settings: list[str]) -> None:
    """Runs the train command; its output is written to a file in the folder of the run."""
    model_dir.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "daso_tf.train", *settings, f"--model_dir={model_dir}"]
    with (model_dir / "log.txt").open("w") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed; see {model_dir / 'log.txt'}")


def scores(results: dict) -> dict[str, float]:
    """Returns the accuracies of a run, in percent, from its `results.json`.

    Head, medium and tail are the mean recalls of the third of the classes with the most labeled
    images, of the next third and of the rest.
    """
    last = results["evaluations"][-1]["test"]
    order = np.argsort(-np.array(results["labeled_counts"]), kind="stable")
    recall = np.array(last["recall"], float)[order]
    thirds = [np.nanmean(third) for third in np.array_split(recall, 3)]
    median = results["median_of_last_20"]["test"]["accuracy"]
    values = (last["accuracy"], median, last["balanced_accuracy"], *thirds)
    return {name: 100 * float(value) for name, value in zip(COLUMNS, values, strict=True)}


def write(
    output: Path,
    reached: dict[str, list[dict[str, float]]],
    figures: dict[str, str] | None = None,
) -> None:
    """Writes the tables and the picture of the runs so far.

    Args:
        output: The folder.
        reached: The scores of each run, by method.
        figures: The paper's figure by method; None leaves their column out.
    """
    with (output / "methods.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["method", "seed", *COLUMNS])
        for name, runs in reached.items():
            for seed, run in enumerate(runs):
                table.writerow([name, seed, *(f"{run[column]:.2f}" for column in COLUMNS)])
    columns = (*COLUMNS, *(["paper, median"] if figures else []))
    lines = [f"| method | seeds | {' | '.join(columns)} |", "|---" * (len(columns) + 2) + "|"]
    for name, runs in reached.items():
        cells = " | ".join(_mean_and_deviation([run[column] for run in runs]) for column in COLUMNS)
        paper = f" {figures[name]} |" if figures else ""
        lines.append(f"| {name} | {len(runs)} | {cells} |{paper}")
    (output / "methods.md").write_text("\n".join(lines) + "\n")
    draw(reached, output / "methods.png")


def draw(reached: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Draws a bar for each method and group of classes, with the deviation over the seeds."""
    groups = ("balanced", "head", "medium", "tail")
    figure = Figure(figsize=(10, 1.5 + 0.6 * len(reached)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for index, group in enumerate(groups):
        values = [[run[group] for run in runs] for runs in reached.values()]
        places = np.arange(len(values)) + (index - (len(groups) - 1) / 2) * 0.2
        axes.barh(places, [*map(np.mean, values)], 0.2, xerr=[*map(np.std, values)], label=group)
    axes.set_yticks(np.arange(len(reached)), list(reached))
    axes.invert_yaxis()
    axes.set(xlabel="test accuracy of the last evaluation, %", xlim=(0, 100))
    axes.legend(ncols=len(groups), loc="lower center", bbox_to_anchor=(0.5, 1))
    figure.savefig(path, dpi=100)


def _mean_and_deviation(values: list[float]) -> str:
    mean = f"{np.mean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ± {np.std(values, ddof=1):.1f}"


def _common_flags(settings: Settings) -> list[str]:
    """Returns the flags of the train command that were given."""
    names = sorted((settings.given & TRAIN.keys()) - {"seed", "model_dir"})
    return [f"--{name}={as_text(settings[name])}" for name in names]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
