"""Makes the example of a report that the documentation shows: `python docs/make_report_page.py`.

Writes scikit-learn's handwritten digits as PNG files, trains on them and copies the page of the
report to docs/_static/report_page.html, without the links to files that are not there. The digits 8
and 9 are no class: a third of the unlabeled pictures and 40 test pictures show them. Two labels are
wrong, and three unlabeled pictures are copies of test pictures. Takes a minute or two.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

TARGET = Path(__file__).parent / "_static" / "report_page.html"
LABELED = (40, 31, 24, 19, 15, 11, 9, 7)
UNLABELED = (100, 80, 64, 51, 41, 33, 26, 21)
VALIDATION, TEST, UNKNOWN = 10, 25, 100
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven")
FLAGS = (
    "--dataset=image_folder --resolution=64 --nohorizontal_flip --crop_padding=4 --open_set"
    " --pseudo_labeler=daso --validation_size=0 --seed=0"
)


def main() -> None:
    """Makes the page."""
    with tempfile.TemporaryDirectory() as folder:
        pictures, run = Path(folder) / "pictures", Path(folder) / "run"
        write_pictures(pictures)
        command = [sys.executable, "-m", "daso_tf", "train", *FLAGS.split()]
        places = [f"--data_dir={pictures}", f"--model_dir={run}", f"--cache_dir={folder}/cache"]
        subprocess.run([*command, *places], check=True)
        page = (run / "report.html").read_text(encoding="utf-8").replace(f"{folder}/", "")
    without_links = re.sub(r'<a href="(?!#)[^"]*"[^>]*>(.*?)</a>', r"\1", page, flags=re.DOTALL)
    TARGET.write_text(without_links, encoding="utf-8")


def write_pictures(folder: Path) -> None:
    """Writes all parts of the pictures."""
    digits, random = load_digits(), np.random.default_rng(0)
    unlabeled: list[np.ndarray] = []
    for k, name in enumerate(NAMES):
        images = random.permutation(digits.images[digits.target == k])
        sizes = np.cumsum([LABELED[k], UNLABELED[k], VALIDATION, TEST])
        train, more, validation, test, _ = np.split(images, sizes)
        save(train, folder / "train" / name)
        save(validation, folder / "validation" / name)
        save(test, folder / "test" / name)
        unlabeled += [*more, *test[: k < 3]]
    others = random.permutation(digits.images[digits.target >= len(NAMES)])
    save(others[:40], folder / "test" / "_unknown")
    unlabeled += [*others[40 : 40 + UNKNOWN]]
    save(random.permutation(np.stack(unlabeled)), folder / "unlabeled")
    for name, other in (("one", "seven"), ("three", "zero")):
        wrong = folder / "train" / name / "000.png"
        shutil.move(wrong, folder / "train" / other / f"from_{name}.png")


def save(images: np.ndarray, folder: Path) -> None:
    """Writes digits of 8 x 8 pixels as PNG files of 64 x 64 pixels."""
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        picture = Image.fromarray((15.9 * image).astype(np.uint8))
        picture.resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{number:03}.png")


if __name__ == "__main__":
    main()
