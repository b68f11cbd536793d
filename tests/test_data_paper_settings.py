"""Every setting of the paper: the flag files, with the flags that their comments say to add.

The counts were computed by hand from `int(N1 * gamma ** (-r / (K - 1)))`, r = 0 the head class.
"""

import dataclasses
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command import completed, parsed

from daso_tf.data.long_tail import LongTail, split
from daso_tf.settings.methods import LEARNERS, published_schedule

FLAG_FILES = Path(__file__).parents[1] / "flags"

# Training images of each class in the published sets.
BENCHMARKS = {"cifar10": [5000] * 10, "cifar100": [500] * 100, "stl10": [500] * 10}

# (flag file, name of the setting in its comment): labeled images of each class, unlabeled images.
CIFAR10 = {
    ("cifar10_lt", "as it is"): (
        [500, 299, 179, 107, 64, 38, 23, 13, 8, 5],
        [4000, 2397, 1437, 861, 516, 309, 185, 111, 66, 40],
    ),
    ("cifar10_lt", "stronger imbalance"): (
        [500, 286, 164, 94, 53, 30, 17, 10, 5, 3],
        [4000, 2292, 1313, 752, 431, 247, 141, 81, 46, 26],
    ),
    ("cifar10_lt", "uniform unlabeled"): (
        [500, 299, 179, 107, 64, 38, 23, 13, 8, 5],
        [4000, 4000, 4000, 4000, 4000, 4000, 4000, 4000, 4000, 4000],
    ),
    ("cifar10_lt", "reversed unlabeled"): (
        [500, 299, 179, 107, 64, 38, 23, 13, 8, 5],
        [40, 66, 111, 185, 309, 516, 861, 1437, 2397, 4000],
    ),
    ("cifar10_lt_1500", "as it is"): (
        [1500, 899, 539, 323, 193, 116, 69, 41, 25, 15],
        [3000, 1798, 1078, 646, 387, 232, 139, 83, 50, 30],
    ),
    ("cifar10_lt_1500", "stronger imbalance"): (
        [1500, 859, 492, 282, 161, 92, 53, 30, 17, 10],
        [3000, 1719, 985, 564, 323, 185, 106, 60, 34, 20],
    ),
    ("cifar10_lt_1500", "uniform unlabeled"): (
        [1500, 899, 539, 323, 193, 116, 69, 41, 25, 15],
        [3000, 3000, 3000, 3000, 3000, 3000, 3000, 3000, 3000, 3000],
    ),
    ("cifar10_lt_1500", "reversed unlabeled"): (
        [1500, 899, 539, 323, 193, 116, 69, 41, 25, 15],
        [30, 50, 83, 139, 232, 387, 646, 1078, 1798, 3000],
    ),
}

# (First class, last class, all 100 classes): labeled images, unlabeled images.
CIFAR100 = {
    ("cifar100_lt", "as it is"): ((150, 15, 5835), (300, 30, 11720)),
    ("cifar100_lt", "stronger imbalance"): ((150, 7, 4741), (300, 15, 9527)),
    ("cifar100_lt_50", "as it is"): ((50, 5, 1911), (400, 40, 15651)),
    ("cifar100_lt_50", "stronger imbalance"): ((50, 2, 1545), (400, 20, 12719)),
}

# Labeled images of each class; all unlabeled images are used.
STL10 = {
    ("stl10_lt", "as it is"): [450, 348, 269, 208, 161, 125, 96, 75, 58, 45],
    ("stl10_lt", "stronger imbalance"): [450, 322, 231, 165, 118, 85, 61, 43, 31, 22],
    ("stl10_lt", "fewer labels"): [150, 116, 89, 69, 53, 41, 32, 25, 19, 15],
    ("stl10_lt", "fewer labels, stronger imbalance"): [150, 107, 77, 55, 39, 28, 20, 14, 10, 7],
}

# (flag file, seed): SHA-256 of which images are labeled, unlabeled and for validation.
DIGESTS = {
    ("cifar10_lt", 0): "c0e3f7aad100b679dfa3d956761493bd5f12c9952d79bfb21ab09141389ee46f",
    ("cifar10_lt", 1): "c428e6266dee029af03aa98cf5579c37987a4ad966fde016f50fb1b3fc1a38ad",
    ("cifar100_lt", 0): "576f1137df67a4b85a21a65990b86258d5c82b2ab7c0485d2afe613606bab428",
    ("cifar100_lt", 1): "516512628252b0e5b95f785dad07e160191610039e9607ffb1bca9b3ae266ae4",
    ("stl10_lt", 0): "3d7074ceffee5f4e4934b108955821a078bc3bd38b20219727650fd5a90746e2",
    ("stl10_lt", 1): "e5f4ea3232da235582ae5008c9637bdf889743ef72f413d896a73911b6a893db",
}


def documented(name):
    """The settings in the comment of a flag file, with the flags to add for each."""
    text = (FLAG_FILES / f"{name}.cfg").read_text()
    return dict(re.findall(r"^#   (\S.*?)  +(--\S.*)$", text, re.MULTILINE))


def flags_of(name, setting="as it is"):
    more = [] if setting == "as it is" else documented(name)[setting].split()
    return parsed(f"--flagfile={FLAG_FILES / name}.cfg", *more)


def carved(values, seed=0):
    """Labels of a data set as large as the published one, and how the flags split it."""
    per_class = BENCHMARKS[values["dataset"]]
    labels = np.arange(sum(per_class)) % len(per_class)
    np.testing.assert_array_equal(np.bincount(labels), per_class)
    sizes = LongTail(**{field.name: values[field.name] for field in dataclasses.fields(LongTail)})
    names = list(map(str, range(len(per_class))))
    has_unlabeled = values["dataset"] == "stl10"
    return labels, split(labels, names, sizes, unlabeled_from_train=not has_unlabeled, seed=seed)


def check_disjoint(parts):
    together = np.concatenate(list(vars(parts).values()))
    assert len(np.unique(together)) == len(together)


@pytest.mark.parametrize("setting", CIFAR10)
def test_cifar10_lt(setting):
    values = flags_of(*setting)
    labels, parts = carved(values)
    labeled, unlabeled = CIFAR10[setting]
    np.testing.assert_array_equal(np.bincount(labels[parts.labeled]), labeled)
    np.testing.assert_array_equal(np.bincount(labels[parts.unlabeled]), unlabeled)
    np.testing.assert_array_equal(np.bincount(labels[parts.validation]), [500] * 10)
    check_disjoint(parts)
    same_ratios = setting[1] in ("as it is", "stronger imbalance")
    assert values["distribution_temperature"] == (1.5 if same_ratios else 0.3)


@pytest.mark.parametrize("setting", CIFAR100)
def test_cifar100_lt(setting):
    values = flags_of(*setting)
    labels, parts = carved(values)
    for part, (first, last, total) in zip(("labeled", "unlabeled"), CIFAR100[setting], strict=True):
        counts = np.bincount(labels[getattr(parts, part)])
        assert (counts[0], counts[-1], counts.sum()) == (first, last, total)
        assert (np.diff(counts) <= 0).all()
    np.testing.assert_array_equal(np.bincount(labels[parts.validation]), [50] * 100)
    check_disjoint(parts)
    assert values["distribution_temperature"] == 0.3


@pytest.mark.parametrize("setting", STL10)
def test_stl10_lt(setting):
    values = flags_of(*setting)
    labels, parts = carved(values)
    np.testing.assert_array_equal(np.bincount(labels[parts.labeled]), STL10[setting])
    np.testing.assert_array_equal(np.bincount(labels[parts.validation]), [50] * 10)
    assert len(parts.unlabeled) == 0  # they come from elsewhere, all 100,000
    check_disjoint(parts)
    assert values["distribution_temperature"] == 0.3


def test_semi_aves_has_the_papers_own_settings():
    """Table 10 of the paper; an epoch is 23 steps of 256 of the 5,959 labeled images."""
    values = flags_of("semi_aves")
    assert values["dataset"] == "semi_aves"
    sizes = {field.name: values[field.name] for field in dataclasses.fields(LongTail)}
    assert LongTail(**sizes) == LongTail()
    paper = {
        "encoder": "resnet_34",
        "resolution": 224,
        "labeled": "l_train_val",
        "batch_size": 256,
        "unlabeled_ratio": 5,
        "learning_rate": 0.04,
        "weight_decay": 3e-4,
        "ema_decay": 0.9,
        "distribution_temperature": 0.5,
        "steps": 90 * 23,
        "pretrain_steps": 20 * 23,
    }
    assert {name: values[name] for name in paper} == paper


BENCHMARK_FILES = sorted({file for file, _ in CIFAR10 | CIFAR100 | STL10})


# Settings of the published comparison, of all learners and of each.
SHARED = {
    "encoder": "wrn_28_2",
    "resolution": 32,
    "crop_padding": 4,
    "cutout_size": 16,
    "batch_size": 64,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "steps": 250_000,
    "evaluate_every": 500,
    "queue_size": 256,
    "prototype_temperature": 0.05,
}
FIXMATCH_LIKE = {
    "unlabeled_ratio": 2,
    "learning_rate": 0.03,
    "ema_decay": 0.999,
    "ramp_fraction": 0,
}
OTHERS = FIXMATCH_LIKE | {"unlabeled_ratio": 1}
LEARNER_SETTINGS = {
    "supervised": {"learning_rate": 0.1, "ema_decay": 0, "warmup_steps": None},
    "pseudo_label": OTHERS | {"unlabeled_weight": 1, "ramp_fraction": 0.4},
    "mean_teacher": OTHERS | {"unlabeled_weight": 50, "ramp_fraction": 0.4, "alignment_weight": 0},
    "mixmatch": OTHERS
    | {"unlabeled_weight": 100, "ramp_fraction": 0.016, "mixup_beta": 0.5, "alignment_weight": 0},
    "remixmatch": OTHERS
    | {"unlabeled_weight": 1.5, "ramp_fraction": 0.016, "mixup_beta": 0.75, "alignment_weight": 1},
    "fixmatch": FIXMATCH_LIKE
    | {"unlabeled_weight": 1, "confidence_threshold": 0.95, "pretrain_steps": 5000},
    "usadtm": FIXMATCH_LIKE | {"confidence_threshold": 0.85, "pretrain_steps": 500},
    "crt": FIXMATCH_LIKE,
}


@pytest.mark.parametrize(
    "learner", sorted(LEARNERS.keys() - {"student"})
)  # of a study on frozen features
@pytest.mark.parametrize("name", BENCHMARK_FILES)
def test_every_learner_has_the_published_settings_with_every_benchmark_file(name, learner):
    values = completed(f"--flagfile={FLAG_FILES / name}.cfg", f"--learner={learner}")
    published = SHARED | LEARNER_SETTINGS[learner]
    assert {key: values[key] for key in published} == published
    if learner == "supervised":
        schedule = published_schedule(learner, values["steps"])
        assert schedule == (6250, (199_999, 225_000))
    else:
        assert (values["warmup_steps"], values["learning_rate_drops"]) == (0, ())


@pytest.mark.parametrize("pseudo_labeler", ["linear", "daso", "crest_plus"])
@pytest.mark.parametrize("name", BENCHMARK_FILES)
def test_remixmatch_aligns_where_both_imbalances_are_equal(name, pseudo_labeler):
    flags = (f"--flagfile={FLAG_FILES / name}.cfg", "--learner=remixmatch")
    values = completed(*flags, f"--pseudo_labeler={pseudo_labeler}")
    # CReST+ aligns by itself.
    expected = {"linear": "cifar" in name, "daso": "cifar100" in name, "crest_plus": False}
    assert values["distribution_alignment"] == expected[pseudo_labeler]
    for differing in ("--unlabeled_imbalance=1", "--reverse_unlabeled"):
        values = completed(*flags, f"--pseudo_labeler={pseudo_labeler}", differing)
        assert not values["distribution_alignment"]


# What tests/test_newer_rebalancers.py compares.
NEWER = ("simpro_", "adello_", "acr_", "cdmad_")


def test_every_flag_file_is_compared_with_the_paper_or_run_by_the_demo():
    files = {path.stem for path in FLAG_FILES.glob("*.cfg")}
    newer = {name for name in files if name.startswith(NEWER)}
    assert files == {*BENCHMARK_FILES, *newer, "semi_aves", "digits_lt"}
    for name in files:
        assert f"daso-tf train --flagfile={name}.cfg" in (FLAG_FILES / f"{name}.cfg").read_text()
        assert flags_of(name)["model_dir"] == f"runs/{name}"


@pytest.mark.parametrize("name", BENCHMARK_FILES)
def test_every_documented_setting_is_compared_with_the_paper(name):
    fields = {field.name for field in dataclasses.fields(LongTail)}
    unchanged = flags_of(name)
    for setting in documented(name):
        values = flags_of(name, setting)
        if any(values[field] != unchanged[field] for field in fields):
            assert (name, setting) in CIFAR10 | CIFAR100 | STL10


def digest(name, seed):
    _, parts = carved(flags_of(name), seed)
    joined = np.concatenate([parts.labeled, [-1], parts.unlabeled, [-1], parts.validation])
    return hashlib.sha256(joined.astype("<i8").tobytes()).hexdigest()


def test_the_same_split_in_every_process_and_on_every_machine():
    assert {key: digest(*key) for key in DIGESTS} == DIGESTS
    program = (
        "import test_data_paper_settings as test\n"
        "print({key: test.digest(*key) for key in test.DIGESTS})"
    )
    other = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parent,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.splitlines()[-1] == str(DIGESTS)
