"""Measures the processor time of short commands, now and in another version.

    git worktree add /tmp/before 99417f4
    python benchmarks/startup.py --repository=/tmp/before

Trains three steps on the digits, which are a part of scikit-learn, and classifies one of their
pictures. Prints a Markdown table: the median of the processor seconds, user and system together.
The versions take turns.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parents[1]
TRAIN = ["train", "--flagfile=digits_lt.cfg", "--steps=3", "--pretrain_steps=1", "--test_images=1"]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repository", help="the other version: its working tree")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    versions = {"before": options.repository} if options.repository else {}
    versions["now"] = str(HERE)
    with tempfile.TemporaryDirectory() as folder:
        measure(str(HERE), [*TRAIN, f"--model_dir={folder}/run"])
        commands = {
            "`daso-tf --help`": ["--help"],
            "`train --help`": ["train", "--help"],
            "`predict --help`": ["predict", "--help"],
            "`presets`": ["presets"],
            "`train --stepz=3`": ["train", "--stepz=3"],
            "`predict` of one picture": [
                "predict",
                f"--model={folder}/run/export",
                f"{folder}/run/test_images",
            ],
            "`train`, three steps on the digits": [*TRAIN, f"--model_dir={folder}/NEW"],
        }
        print(f"| command | {' | '.join(versions)} |")
        print(f"|---|{'---|' * len(versions)}", flush=True)
        for name, command in commands.items():
            seconds = {version: [] for version in versions}
            for number in range(options.repeats):
                for version, repository in versions.items():
                    own = [part.replace("NEW", f"{version}_{number}") for part in command]
                    seconds[version].append(measure(repository, own))
            medians = [f"{statistics.median(runs):.2f}" for runs in seconds.values()]
            print(f"| {name} | {' | '.join(medians)} |", flush=True)


def measure(repository: str, command: list[str]) -> float:
    """Returns the processor seconds of one command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "daso_tf", *command],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": repository},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=command != ["train", "--stepz=3"],
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


if __name__ == "__main__":
    main()
