"""Trains every method by one cheap protocol and ranks them.

    python benchmarks/scoreboard.py --data_dir=cifar10_jpeg --output=runs/scoreboard
    python benchmarks/scoreboard.py --data_dir=cifar10_jpeg --output=runs/scoreboard --shard=1/2

The folder `--data_dir` has train/<class>/*.jpg and test/<class>/*.jpg, such as CIFAR-10 as JPEG
files. Each seed draws 500 labeled images of the head class, with an imbalance ratio of 20, and as
many unlabeled images as 2,000 of the head class would make, in three class distributions:
consistent (that of the labeled images), uniform, and reversed. Each method runs on two tracks:
`scratch` trains WRN-28-1 at 16 x 16 pixels, `features` trains an adapter on the cached features of
EfficientNet-Lite0 at 96 x 96 pixels. Within a track all methods have the same steps, batches,
network and moving average. What a paper states in steps or epochs is the same share of the run here
(`in_proportion`). Everything else is the default of the method.

Seed 0 of everything comes first, then the other seeds. Each finished run leaves a file `row.json`
in its folder, and the same command trains only what is missing. `--shard=I/N` trains each N-th run,
for N machines or cores that share the folder. `--rows=FILE.csv` takes over runs that were made
elsewhere: `benchmarks/scoreboard.csv` has those of RESULTS.md. `--method="NAME: FLAGS"`, once per
method, trains these methods; the tables also show other methods that the folder has.

Writes `scoreboard.md`, `scoreboard.csv` and `scoreboard.html`: the balanced test accuracy of the
last step as mean over the seeds with its 95 % interval (Student's t), the rank by the mean of the
three distributions, and the processor time of a run. A mean of which a part is not known stays
empty.
"""

import argparse
import base64
import csv
import io
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

import jinja2
import numpy as np
import tqdm
from absl import flags
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from methods import METHODS as OF_THE_PAPER
from scipy import stats

from daso_tf.platform.files import write_atomically
from daso_tf.settings import combinations
from daso_tf.settings.flags import TRAIN, complete
from daso_tf.settings.settings import parse

ROOT = Path(__file__).resolve().parents[1]
METHODS = (
    *OF_THE_PAPER,
    "fixmatch + acr: --pseudo_labeler=linear --balanced_head=acr",
    "fixmatch + adello: --pseudo_labeler=adello",
    "fixmatch + cdmad: --pseudo_labeler=cdmad",
    "fixmatch + simpro: --pseudo_labeler=simpro",
    "remixmatch + cdmad: --learner=remixmatch --pseudo_labeler=cdmad",
    "student + lda_teacher: --learner=student --pseudo_labeler=lda_teacher",
    "student + lda_teacher + la: --learner=student --pseudo_labeler=lda_teacher"
    " --logit_adjustment=1",
)
COMMON = (
    "--dataset=image_folder --labeled_head=500 --labeled_imbalance=20 --batch_size=32"
    " --unlabeled_ratio=2 --logit_adjustment=0 --test_logit_adjustment=0"
)
# All have the number of unlabeled images of the consistent distribution, 6,766, up to rounding.
# DASO's temperature follows the distribution, as in the paper (section 4.1).
DISTRIBUTIONS = {
    "consistent": "--unlabeled_head=2000 --unlabeled_imbalance=20 --distribution_temperature=1.5",
    "uniform": "--unlabeled_head=677 --unlabeled_imbalance=1 --distribution_temperature=0.3",
    "reversed": "--unlabeled_head=2000 --unlabeled_imbalance=20 --reverse_unlabeled"
    " --distribution_temperature=0.3",
}
TRACKS = {
    "scratch": "--resolution=16 --encoder=wrn_28_1 --cutout_size=8 --ema_decay=0.99",
    "features": "--resolution=96 --encoder=efficientnet_lite0 --freeze_encoder --ema_decay=0.99",
}
STEPS = {"scratch": 1000, "features": 800}
MEASURES = ("balanced", "logit_adjusted", "head", "medium", "tail", "core_minutes")


class Run(NamedTuple):
    """One run of the protocol."""

    track: str
    distribution: str
    method: str
    seed: int

    def folder(self, output: Path) -> Path:
        """Returns its folder in that of the scoreboard."""
        name = f"{self.method.replace(' ', '')}_{self.seed}"
        return output / self.track / self.distribution / name


def main() -> int:
    """Trains the runs that are missing and writes the tables."""
    arguments = parser().parse_args()
    methods = dict(text.split(": ", 1) for text in arguments.method or METHODS)
    tracks = arguments.track or list(TRACKS)
    absent = {
        (track, name): reason
        for track in tracks
        for name, more in methods.items()
        if (reason := refusal([*flags_of(track, "consistent", arguments.data_dir), *more.split()]))
    }
    for name in methods:
        reasons = [absent.get((track, name)) for track in tracks]
        if all(reasons):
            raise SystemExit(f"{name}: {reasons[0]}")
    runs = [
        Run(track, distribution, name, seed)
        for seed in range(arguments.seeds)
        for distribution in DISTRIBUTIONS
        for track in tracks
        for name in methods
        if (track, name) not in absent
    ]
    for path in arguments.rows or ():
        take_over(path, arguments.output)
    index, shards = arguments.shard
    missing = [
        run
        for run in runs[index - 1 :: shards]
        if not (run.folder(arguments.output) / "row.json").exists()
    ]
    for run in tqdm.tqdm(missing, desc="runs", disable=None):
        train(run, methods[run.method], arguments.data_dir, arguments.output)
        write(arguments.output, absent)
    write(arguments.output, absent)
    print((arguments.output / "scoreboard.md").read_text())
    return 0


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--data_dir", type=Path, required=True, help="train/<class>, test/<class>")
    made.add_argument("--output", type=Path, required=True, help="folder of the runs and tables")
    made.add_argument("--seeds", type=positive, default=3, help="runs with --seed=0, 1, ...")
    made.add_argument(
        "--shard", type=shard, default=(1, 1), help="I/N: each N-th run from the I-th"
    )
    made.add_argument(
        "--rows", action="append", type=Path, help="a scoreboard.csv whose runs are finished"
    )
    made.add_argument("--method", action="append", type=named, help="NAME: FLAGS, once per method")
    made.add_argument("--track", action="append", choices=list(TRACKS), help="default: both")
    return made


def positive(text: str) -> int:
    """Returns a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, at least 1")
    return int(text)


def shard(text: str) -> tuple[int, int]:
    """Returns I and N of a shard "I/N"."""
    index, slash, shards = text.partition("/")
    if not (slash and index.isdecimal() and shards.isdecimal() and 1 <= int(index) <= int(shards)):
        raise argparse.ArgumentTypeError(
            f"{text!r} must be I/N with 1 <= I <= N, such as 2/4 for the second of four shards"
        )
    return int(index), int(shards)


def named(text: str) -> str:
    """Returns the text of a method, "NAME: FLAGS"."""
    if ": " not in text or "/" in text.partition(": ")[0]:
        raise argparse.ArgumentTypeError(
            f"{text!r} must be a name without '/', a colon, a space and flags"
        )
    return text


def flags_of(track: str, distribution: str, data_dir: Path) -> list[str]:
    """Returns the flags that all methods of a track have."""
    texts = (COMMON, DISTRIBUTIONS[distribution], TRACKS[track], in_proportion(STEPS[track]))
    return [f"--data_dir={data_dir}", *(flag for text in texts for flag in text.split())]


def in_proportion(steps: int) -> str:
    """Returns the flags whose published values are steps or epochs of a run of 250,000 steps.

    Each is the same share of `steps`. An epoch is a twentieth of the run: about two passes over the
    labeled images, as in the papers' 500 steps.

    Args:
        steps: Length of the run.
    """
    shares = {
        "pretrain_steps": 0.1,  # 5,000 are too few to teach a network within 1,000 steps
        "generation_steps": 0.2,
        "ldam_reweight_after": 0.8,
        "cossl_warmup_steps": 0.02,
        "adello_distill_after": 0.2,
        "epoch_steps": 0.05,
        "distribution_period": 0.05,
    }
    chosen = {name: max(1, round(share * steps)) for name, share in shares.items()}
    chosen |= {"cdmad_debias_after": 4, "acr_estimate_after": 1}  # epochs, a fifth and the first
    chosen |= {"steps": steps, "evaluate_every": steps}
    return " ".join(f"--{name}={value}" for name, value in chosen.items())


def refusal(arguments: list[str]) -> str | None:
    """Returns why settings cannot be combined, or None."""
    try:
        settings, _ = parse(arguments, TRAIN.values())
        combinations.check(complete(settings))
    except (ValueError, flags.Error) as error:
        return str(error).partition("\n")[0]
    return None


def train(run: Run, more: str, data_dir: Path, output: Path) -> None:
    """Trains one run from the start and writes its row.

    Args:
        run: The run.
        more: The flags of its method.
        data_dir: Folder of the pictures.
        output: Folder of the scoreboard.
    """
    folder = run.folder(output)
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was interrupted
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "daso_tf.train"]
    command += [*flags_of(run.track, run.distribution, data_dir), *more.split()]
    # The first run on some pictures computes their features; --cache_dir shares them.
    command += [f"--cache_dir={output / 'features'}"] * (run.track == "features")
    command += [f"--seed={run.seed}", f"--model_dir={folder}", "--noreport"]
    used = processor_seconds()
    with (folder / "log.txt").open("w") as log:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed; see {folder / 'log.txt'}")
    minutes = (processor_seconds() - used) / 60
    results = json.loads((folder / "results.json").read_text())
    row = run._asdict() | scores(results) | {"core_minutes": round(minutes, 2)}
    write_atomically(folder / "row.json", lambda file: file.write(json.dumps(row).encode()))


def processor_seconds() -> float:
    """Returns the processor time of the child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def scores(results: dict) -> dict[str, float]:
    """Returns balanced accuracies in percent: all classes, adjusted, and by labeled count."""
    last = results["evaluations"][-1]["test"]
    order = np.argsort(-np.array(results["labeled_counts"]), kind="stable")
    thirds = np.array_split(np.array(last["recall"], float)[order], 3)
    values = (
        last["balanced_accuracy"],
        last["logit_adjusted"]["balanced_accuracy"],
        *map(np.nanmean, thirds),
    )
    return {
        name: round(100 * float(value), 2) for name, value in zip(MEASURES[:5], values, strict=True)
    }


def take_over(path: Path, output: Path) -> None:
    """Writes the rows of another scoreboard, for runs that are not finished here.

    Args:
        path: Its `scoreboard.csv`. A measure that is not known may be empty.
        output: Folder of this scoreboard.

    Raises:
        SystemExit: If the file is not such a table.
    """
    columns = [*Run._fields, *MEASURES]
    try:
        with path.open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            if table.fieldnames != columns:
                raise ValueError(f"its columns are {table.fieldnames}, not {columns}")
            rows = []
            for line in table:
                run = Run(line["track"], line["distribution"], line["method"], int(line["seed"]))
                if run.track not in TRACKS or run.distribution not in DISTRIBUTIONS:
                    raise ValueError(f"{run} is no run of this protocol")
                measured = {name: float(line[name]) if line[name] else None for name in MEASURES}
                rows.append((run, measured))
    except (OSError, UnicodeError, ValueError) as error:
        raise SystemExit(f"--rows={path} is no table of a scoreboard: {error}") from None
    for run, measured in rows:
        target = run.folder(output) / "row.json"
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            data = json.dumps(run._asdict() | measured).encode()
            write_atomically(target, lambda file, data=data: file.write(data))


class Line(NamedTuple):
    """One row of a table."""

    rank: int
    method: str
    by_distribution: dict[str, list[dict]]  # the rows of the runs, by seed
    average: float  # of the distributions' means; NaN where one is missing


def rows_in(output: Path) -> list[dict]:
    """Returns the rows of all finished runs in a folder."""
    return [json.loads(path.read_text()) for path in sorted(output.glob("*/*/*/row.json"))]


def lines_of(rows: list[dict], track: str) -> Iterator[Line]:
    """Yields the rows of a track's table: the best first, then those that are incomplete."""
    known = [text.partition(": ")[0] for text in METHODS]
    found = dict.fromkeys(row["method"] for row in rows if row["track"] == track)
    candidates = []
    for method in sorted(
        found, key=lambda name: known.index(name) if name in known else len(known)
    ):
        by_distribution = {
            distribution: [
                row
                for row in rows
                if (row["track"], row["distribution"], row["method"])
                == (track, distribution, method)
            ]
            for distribution in DISTRIBUTIONS
        }
        means = [mean_of(of, "balanced") for of in by_distribution.values()]
        candidates.append((method, by_distribution, float(np.mean(means))))
    order = sorted(candidates, key=lambda one: (np.isnan(one[2]), -one[2]))
    for rank, (method, by_distribution, average) in enumerate(order, start=1):
        yield Line(rank, method, by_distribution, average)


def mean_of(rows: list[dict], measure: str) -> float:
    """Returns the mean of a measure over runs; NaN if there is none, or one is not known."""
    values = [row[measure] for row in rows]
    return float("nan") if None in values or not values else mean(values)


def as_text(value: float) -> str:
    """Returns a mean as text."""
    return "" if np.isnan(value) else f"{value:.1f}"


def cell(rows: list[dict], measure: str) -> str:
    """Returns the mean over the seeds with half of its 95 % interval, as text."""
    if not rows:
        return "missing"
    values = [row[measure] for row in rows]
    if len(values) == 1:
        return f"{values[0]:.1f}"
    half = stats.t.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return f"{mean(values):.1f} ± {half:.1f}"


HEADER = ("rank", "method", "seeds", *DISTRIBUTIONS, "mean", "tail", "adjusted", "core-minutes")


def cells(line: Line) -> list[str]:
    """Returns a row of a table as texts, in the order of `HEADER`."""
    everything = [row for of in line.by_distribution.values() for row in of]
    seeds = {len(of) for of in line.by_distribution.values()}
    complete_row = not np.isnan(line.average)
    of_all = [mean_of(everything, name) for name in ("tail", "logit_adjusted", "core_minutes")]
    return [
        str(line.rank) if complete_row else "",
        line.method,
        str(min(seeds)) if len(seeds) == 1 else f"{min(seeds)} to {max(seeds)}",
        *(cell(of, "balanced") for of in line.by_distribution.values()),
        *map(as_text, (line.average, *of_all)),
    ]


def write(output: Path, absent: dict[tuple[str, str], str]) -> None:
    """Writes the three files.

    Args:
        output: The folder of the scoreboard.
        absent: Why a method is not on a track, by track and method.
    """
    rows = rows_in(output)
    tables = {}
    for track in TRACKS:
        lines = list(lines_of(rows, track))
        if lines:
            notes = {name: why for (of, name), why in absent.items() if of == track}
            tables[track] = (lines, notes)
    markdown = "\n\n".join(as_markdown(track, *table) for track, table in tables.items()) + "\n"
    template = (Path(__file__).parent / "scoreboard.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(template).render(
        header=HEADER,
        tables=[
            {
                "track": track,
                "rows": [cells(line) for line in lines],
                "notes": notes,
                "chart": chart(track, lines),
            }
            for track, (lines, notes) in tables.items()
        ],
        protocol=[(track, *protocol(track)) for track in tables],
    )
    text = io.StringIO()
    table = csv.DictWriter(text, [*Run._fields, *MEASURES])
    table.writeheader()
    table.writerows(rows)
    for name, content in (("md", markdown), ("html", page), ("csv", text.getvalue())):
        data = content.encode()
        write_atomically(output / f"scoreboard.{name}", lambda file, data=data: file.write(data))


def as_markdown(track: str, lines: list[Line], notes: dict[str, str]) -> str:
    """Returns a track's table with its footnotes."""
    text = [f"**{track}**", "", f"| {' | '.join(HEADER)} |", "|---" * len(HEADER) + "|"]
    text += [f"| {' | '.join(cells(line))} |" for line in lines]
    dashes = " &ndash; |" * (len(HEADER) - 2)
    text += [f"| | {name} [{n}] |{dashes}" for n, name in enumerate(notes, start=1)]
    text += ["", *(f"[{n}] {reason}  " for n, reason in enumerate(notes.values(), start=1))]
    return "\n".join(text).rstrip()


def protocol(track: str) -> tuple[str, str]:
    """Returns the flags of a track for its page: the common ones, and those by distribution."""
    by_distribution = "\n".join(f"{name}: {text}" for name, text in DISTRIBUTIONS.items())
    return f"{COMMON} {TRACKS[track]} {in_proportion(STEPS[track])}", by_distribution


def chart(track: str, lines: list[Line]) -> str:
    """Returns a picture of a track's table as base64: a mark for each run."""
    figure = Figure(figsize=(8, 1.2 + 0.26 * len(lines)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for marker, distribution in zip("os^", DISTRIBUTIONS, strict=True):
        points = [
            (row["balanced"], place)
            for place, line in enumerate(lines)
            for row in line.by_distribution[distribution]
        ]
        if points:
            axes.scatter(
                *zip(*points, strict=True), marker=marker, s=22, alpha=0.8, label=distribution
            )
    axes.set_yticks(range(len(lines)), [line.method for line in lines])
    axes.invert_yaxis()
    axes.grid(alpha=0.3)
    axes.set(xlabel="balanced test accuracy, %")
    axes.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1), title=track)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return base64.b64encode(buffer.getvalue()).decode()


if __name__ == "__main__":
    sys.exit(main())
