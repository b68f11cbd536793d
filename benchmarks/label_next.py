"""Compares the labels that `daso-tf label-next` asks for with those of a random choice.

    python benchmarks/label_next.py --pictures=cifar10_jpeg --output=runs/label_next

The folder `--pictures` has train/<class>/*.jpg and test/<class>/*.jpg, such as CIFAR-10 as JPEG
files. Each seed draws 103 labeled pictures of ten classes, 30 of the largest and 2 of the smallest,
3,405 unlabeled ones of the same imbalance, and 200 test pictures per class. After the first run,
50 more pictures are labeled in each of three rounds: those at the top of the list of
`daso-tf label-next`, or a random choice. All runs have the automatic settings, so a frozen
EfficientNet-Lite0 if its weights are installed.

Each finished run is a line in `rows.jsonl`; the same command again trains only what is missing.
Prints a Markdown table: balanced test accuracy and that of the tail third of the classes, in %, and
how many of the pictures that were labeled are of these classes; means over the seeds.
"""

import argparse
import csv
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev

import tqdm
from automatic import copy

LABELED, UNLABELED, IMBALANCE, TEST = 30, 1000, 20, 200
ROUNDS, COUNT = 3, 50
CHOICES = ("label-next", "random")


def main() -> None:
    """Trains what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, required=True, help="train/<class>, test/<class>")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    arguments, flags = parser.parse_known_args()
    path = arguments.output / "rows.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    finished = {(row["seed"], row["choice"], row["round"]) for row in rows}
    runs = [
        (seed, choice, number)
        for seed in range(arguments.seeds)
        for choice, number in (("", 0), *((c, r + 1) for c in CHOICES for r in range(ROUNDS)))
    ]
    for seed, choice, number in tqdm.tqdm([run for run in runs if run not in finished]):
        pictures = arguments.output / f"pictures_{seed}"
        if not pictures.exists():
            make_folder(arguments.pictures, pictures, seed)
        folder = arguments.output / f"{choice}_{number}_{seed}"
        before = arguments.output / f"{choice if number > 1 else ''}_{number - 1}_{seed}"
        labels = arguments.output / f"{choice}_{number}_{seed}.csv"
        if number:
            chosen = ask(choice, before, labels, seed, number)
        else:
            chosen = []
            write(labels, first_labels(pictures))
        rows.append(
            {"seed": seed, "choice": choice, "round": number, "chosen": chosen}
            | train(pictures, labels, folder, seed, flags)
        )
        with path.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
    print(table([row for row in rows if row["seed"] < arguments.seeds]))


def counts(largest: int, classes: int) -> list[int]:
    """Returns numbers that fall from the largest to a twentieth of it."""
    return [round(largest * IMBALANCE ** (-k / (classes - 1))) for k in range(classes)]


def make_folder(pictures: Path, folder: Path, seed: int) -> None:
    """Draws the pictures of one seed; their true classes are the first parts of their names."""
    draw, parts = random.Random(seed), folder.with_name(f"{folder.name}.part")
    shutil.rmtree(parts, ignore_errors=True)
    names = sorted(entry.name for entry in (pictures / "train").iterdir())
    sizes = zip(counts(LABELED, len(names)), counts(UNLABELED, len(names)), strict=True)
    for name, (labeled, unlabeled) in zip(names, sizes, strict=True):
        files = draw.sample(sorted((pictures / "train" / name).iterdir()), labeled + unlabeled)
        copy(files[:labeled], parts / "labeled", f"{name}_")
        copy(files[labeled:], parts / "unlabeled", f"{name}_")
        tests = draw.sample(sorted((pictures / "test" / name).iterdir()), TEST)
        copy(tests, parts / "test", f"{name}_")
    parts.rename(folder)


def class_of(path: str) -> str:
    """Returns the true class of a picture."""
    return Path(path).name.partition("_")[0]


def first_labels(folder: Path) -> list[dict]:
    """Returns the label file of the first run."""
    return [
        {
            "path": str(file.relative_to(folder)),
            "label": "" if part == "unlabeled" else class_of(file.name),
            "part": "test" if part == "test" else "",
        }
        for part in ("labeled", "unlabeled", "test")
        for file in sorted((folder / part).iterdir())
    ]


def ask(choice: str, run: Path, labels: Path, seed: int, number: int) -> list[str]:
    """Writes the label file of the next run, with 50 more labels; returns their classes."""
    command = [sys.executable, "-m", "daso_tf", "label-next", str(run)]
    command += [f"--count={COUNT}", f"--output={labels}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    with labels.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    open_rows = [row for row in rows if not row["label"]]
    if choice == "random":
        open_rows = random.Random(f"{seed} {number}").sample(open_rows, COUNT)
    for row in open_rows[:COUNT]:
        row.update(label=class_of(row["path"]), part="")
    write(labels, rows)
    return [row["label"] for row in open_rows[:COUNT]]


def write(path: Path, rows: list[dict]) -> None:
    """Writes a label file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["path", "label", "part"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def train(pictures: Path, labels: Path, folder: Path, seed: int, flags: list[str]) -> dict:
    """Trains a run and returns the recall of each class in the exported answer."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    command = [sys.executable, "-m", "daso_tf.train", "--dataset=image_list", f"--labels={labels}"]
    command += [f"--data_dir={pictures}", f"--model_dir={folder}", f"--seed={seed}", "--noreport"]
    with (folder / "log.txt").open("w") as log:
        done = subprocess.run([*command, *flags], stdout=log, stderr=subprocess.STDOUT)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed; see {folder / 'log.txt'}")
    results = json.loads((folder / "results.json").read_text())
    with labels.open(newline="", encoding="utf-8") as file:
        given = sum(bool(row["label"]) and row["part"] != "test" for row in csv.DictReader(file))
    if given != sum(results["labeled_counts"]):
        raise SystemExit(f"{folder} learned from another number of labels than {given} of {labels}")
    return {"recall": results["exported"]["test"]["recall"], "classes": results["class_names"]}


def table(rows: list[dict]) -> str:
    """Returns the means over the seeds as a Markdown table."""
    lines = [
        "| labels | choice | balanced accuracy | tail third | of the tail third among the chosen |",
        "|---" * 5 + "|",
    ]
    first = counts(LABELED, len(rows[0]["classes"]))
    for choice, number in dict.fromkeys((row["choice"], row["round"]) for row in rows):
        of = [row for row in rows if (row["choice"], row["round"]) == (choice, number)]
        # The names of the classes are in the order of their labeled pictures in the first run.
        tail = {name for row in rows for name in sorted(row["classes"])[-3:]}
        all_of = [100 * mean(row["recall"]) for row in of]
        tails = [
            100 * mean(r for r, c in zip(row["recall"], row["classes"], strict=True) if c in tail)
            for row in of
        ]
        chosen = mean(sum(name in tail for name in row["chosen"]) for row in of)
        lines.append(
            f"| {sum(first) + COUNT * number} | {choice or '(first run)'} | {spread(all_of)} |"
            f" {spread(tails)} | {chosen:.1f} |"
        )
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Returns the mean with its standard error."""
    error = f" ± {stdev(values) / len(values) ** 0.5:.1f}" if len(values) > 1 else ""
    return f"{mean(values):.1f}{error}"


if __name__ == "__main__":
    main()
