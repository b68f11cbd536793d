"""Writes what commit 20a1ee4 saved: learners, runs, exports, encoders and their answers.

It needs the library of that commit, so it runs in a checkout of it:

    git worktree add /tmp/old 20a1ee4
    cp tests/saved_by_20a1ee4.py /tmp/old/tests
    cd /tmp/old && PYTHONPATH=. python tests/saved_by_20a1ee4.py

The result is `tests/data/saved_by_20a1ee4/keras_2` under Keras 2.15 and `keras_3` under Keras 3.
`test_saved_before.py` loads it. Do not run it with another commit: the files show what users of
that commit have on their disks.
"""

# ruff: noqa: I001  (Today's daso_tf lacks some of these modules, which confuses the sorting.)

import os
import shutil
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from absl.testing import flagsaver

import daso_tf
from daso_tf import metrics, optimizers, train, unlabeled_distribution
from daso_tf.augment import RandomResizedCrop
from daso_tf.balance import ABC, ClassBalancedLoss, CoSSL, LDAMLoss, LogitAdjustedLoss
from daso_tf.checkpoints import Checkpoints
from daso_tf.encoders import BatchNormalization, wide_resnet
from daso_tf.encoders.applications import ApplicationsInput
from daso_tf.encoders.precision import dtype_policy
from daso_tf.flags import FLAGS
from daso_tf.learning_rate import learning_rate
from daso_tf.pseudo_labels import (
    AlignedPseudoLabeler,
    DARPPseudoLabeler,
    DASOPseudoLabeler,
    DebiasedPseudoLabeler,
    DistributionAlignment,
)
from daso_tf.thresholds import (
    ADSHThreshold,
    FixedThreshold,
    FlexMatchThreshold,
    FreeMatchThreshold,
    SAWWeight,
    SoftMatchWeight,
)

MAJOR = int(keras.__version__.split(".")[0])
FOLDER = Path(__file__).parent / "data" / "saved_by_20a1ee4" / f"keras_{MAJOR}"
K, SIZE = 3, 8
COUNTS = [8, 4, 2]
UNLABELED = 20


def dense():
    """Returns an encoder of one dense layer."""
    image = keras.Input((SIZE, SIZE, 3))
    pooled = keras.layers.AveragePooling2D(2)(image)
    features = keras.layers.Dense(5, activation="tanh")(keras.layers.Flatten()(pooled))
    return keras.Model(image, features)


def residual():
    """Returns the blocks of a wide residual network with 4 and 6 channels in place of 16 to 64."""
    blocks = sys.modules[wide_resnet.__module__]
    image = keras.Input((SIZE, SIZE, 3))
    x = blocks._convolution(4, name="init_conv")(image)
    x = blocks._block(x, 4, 1, "group1_block0", True)
    x = blocks._block(x, 6, 2, "group2_block0", False)
    x = blocks._activated_norm(x, "final_norm")
    return keras.Model(image, keras.layers.GlobalAveragePooling2D()(x))


def mixed(dtype):
    """Returns an encoder of one convolution that computes in another precision."""
    with dtype_policy(dtype):
        image = keras.Input((SIZE, SIZE, 3))
        x = keras.layers.Conv2D(4, 3, strides=2, use_bias=False)(image)
        x = BatchNormalization(negative_slope=0.1)(x)
        return keras.Model(image, keras.layers.GlobalAveragePooling2D(dtype="float32")(x))


def application_input():
    """Returns an encoder that begins as those of `keras.applications` do."""
    image = keras.Input((SIZE, SIZE, 3))
    x = ApplicationsInput("MobileNetV3Small", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))(image)
    x = keras.layers.Conv2D(4, 3, strides=2)(x)
    x = BatchNormalization()(x)
    return keras.Model(image, keras.layers.GlobalAveragePooling2D()(x))


def learners():
    """Yields name, learner, optimizer and settings of `compile`, one after another."""
    warm = learning_rate(0.01, warmup_steps=4)
    dropping = learning_rate(0.05, warmup_steps=2, drops=[4, 6], drop=0.1)
    yield (
        "supervised",
        daso_tf.Supervised(dense(), K, supervised_loss=ClassBalancedLoss(COUNTS)),
        optimizers.build("adam", warm)[0],
        {"metrics": ["accuracy"]},
    )
    yield (
        "supervised_ldam",
        daso_tf.Supervised(dense(), K, supervised_loss=LDAMLoss(COUNTS, reweight_after=2)),
        optimizers.build("sgdw", 0.05, weight_decay=0.01)[0],
        # That commit could not load what it saved of this metric under Keras 2.15.
        {
            "metrics": [metrics.OneHotLabels(keras.metrics.CategoricalAccuracy())]
            if MAJOR >= 3
            else []
        },
    )
    yield (
        "pseudo_label",
        daso_tf.PseudoLabel(dense(), K, confidence_threshold=FlexMatchThreshold(UNLABELED, 0.4)),
        optimizers.build("adamw", 0.01, weight_decay=0.01)[0],
        {},
    )
    yield (
        "mean_teacher",
        daso_tf.MeanTeacher(
            dense(),
            K,
            AlignedPseudoLabeler(COUNTS, window=4),
            test_logit_adjustment=1.0,
            labeled_counts=COUNTS,
            ramp_steps=5,
        ),
        optimizers.build("sgd", dropping)[0],
        {},
    )
    yield (
        "mixmatch",
        daso_tf.MixMatch(
            application_input(),
            K,
            DASOPseudoLabeler(queue_size=2, pretrain_steps=1, distribution_period=2),
            weak=RandomResizedCrop(SIZE, scale=(0.5, 1.0)),
        ),
        optimizers.build("lamb", warm)[0],
        {},
    )
    yield (
        "remixmatch",
        daso_tf.ReMixMatch(
            dense(),
            K,
            DARPPseudoLabeler(COUNTS, UNLABELED, start_step=1, period=2),
            distribution_alignment=DistributionAlignment(COUNTS, window=4),
        ),
        optimizers.build("sgd", 0.05)[0],
        {},
    )
    yield (
        "remixmatch_abc",
        daso_tf.ReMixMatch(dense(), K, balanced_head=ABC(COUNTS, total_steps=9, update_every=2)),
        optimizers.build("sgd", 0.05)[0],
        {},
    )
    yield (
        "fixmatch_debiaspl_freematch",
        daso_tf.FixMatch(
            dense(),
            K,
            DebiasedPseudoLabeler(momentum=0.5),
            confidence_threshold=FreeMatchThreshold(momentum=0.5),
            supervised_loss=LogitAdjustedLoss(COUNTS),
        ),
        optimizers.build("sgd", 0.05)[0],
        {},
    )
    yield (
        "fixmatch_cossl_softmatch",
        daso_tf.FixMatch(
            dense(),
            K,
            confidence_threshold=SoftMatchWeight(momentum=0.5),
            balanced_head=CoSSL(COUNTS, teach_after=2),
        ),
        optimizers.build("sgd", 0.05)[0],
        {},
    )
    yield (
        "fixmatch_saw_microbatches",
        daso_tf.FixMatch(
            dense(), K, confidence_threshold=SAWWeight(UNLABELED, 0.4), microbatches=2
        ),
        optimizers.build("sgd", 0.05)[0],
        {},
    )
    yield (
        "fixmatch_adsh_float16",
        daso_tf.FixMatch(
            mixed("mixed_float16"),
            K,
            confidence_threshold=ADSHThreshold(COUNTS, UNLABELED, 0.4),
            first_step=7,
        ),
        optimizers.build("sgd", 0.05)[0],
        {},
    )
    yield (
        "daso_batch_norm",
        daso_tf.DASO(
            residual(),
            K,
            queue_size=2,
            pretrain_steps=1,
            distribution_period=2,
            confidence_threshold=FixedThreshold(0.4),
            class_names=["ant", "bee", "cicada"],
            strong=daso_tf.augment.RandAugment(num_ops=1, cutout=2),
            weak=daso_tf.augment.Weak(horizontal_flip=False),
            mean=(0.5, 0.4, 0.3),
            std=(0.2, 0.2, 0.3),
            ema_decay=0.9,
            seed=3,
        ),
        optimizers.build("sgd", warm)[0],
        {"jit_compile": "batch_norm"},
    )
    yield (
        "daso_bfloat16",
        daso_tf.DASO(mixed("mixed_bfloat16"), K, queue_size=2, pretrain_steps=1),
        optimizers.build("adam", 0.01)[0],
        {},
    )
    yield (
        "usadtm",
        daso_tf.USADTM(dense(), K, queue_size=2, pretrain_steps=1),
        optimizers.build("sgd", 0.05)[0],
        {},
    )
    yield (
        "crt",
        daso_tf.ClassifierRetraining(dense(), K),
        optimizers.build("sgd", 0.05)[0],
        {},
    )
    if MAJOR == 2:
        yield (
            "supervised_lookahead",
            daso_tf.Supervised(dense(), K),
            optimizers.build("lookahead_sgd", 0.05)[0],
            {},
        )


def batch(step, with_positions):
    """Returns the batch of a step, as `train_on_batch` takes it."""
    rng = np.random.default_rng(step)
    images = rng.integers(0, 256, (18, SIZE, SIZE, 3), dtype=np.uint8)
    inputs = (images[:6], images[6:])
    if with_positions:
        inputs = (*inputs, rng.permutation(UNLABELED)[:12])
    return inputs, np.arange(6, dtype=np.int32) % K


def save_learner(name, learner, optimizer, settings):
    """Trains three steps, saves, and records what it answers then and after a fourth step."""
    learner.compile(optimizer, **{"jit_compile": False, **settings})
    for step in range(3):
        learner.train_on_batch(*batch(step, learner.needs_positions))
    learner.save(FOLDER / f"{name}.keras")
    images = np.random.default_rng(9).integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8)
    answers = {"images": images, "probabilities": learner.predict(images, verbose=0)}
    if name == "daso_batch_norm":
        learner.export(FOLDER / "export")
        learner.ema_encoder.save_weights(FOLDER / "encoder.weights.h5")
        Checkpoints(FOLDER / "checkpoints").save(learner)
        features = learner.ema_encoder(learner.as_input(images), training=False)
        answers["features"] = np.array(features)
    learner.train_on_batch(*batch(3, learner.needs_positions))
    answers["step_later"] = learner.predict(images, verbose=0)
    return answers


SMALL_RUN = {
    "dataset": "digits",
    "labeled_head": 6,
    "labeled_imbalance": 3,
    "unlabeled_head": 12,
    "unlabeled_imbalance": 3,
    "validation_size": 20,
    "resolution": 8,
    "horizontal_flip": False,
    "cutout_size": 2,
    "encoder": "wrn_10_1",
    "batch_size": 8,
    "queue_size": 4,
    "pretrain_steps": 2,
    "distribution_period": 2,
    "confidence_threshold": 0.1,
    "jit_compile": "false",
    "steps": 3,
    "evaluate_every": 2,
    "ema_decay": 0.8,
    "test_images": 4,
}

# Without momentum, a checkpoint is smaller by a third.
RUNS = {
    3: {
        "daso": {"warmup_steps": 4},
        "fixmatch_crest_plus": {
            "pseudo_labeler": "crest_plus",
            "generation_steps": 2,
            "momentum": 0,
        },
    },
    2: {
        "remixmatch_darp": {
            "learner": "remixmatch",
            "pseudo_labeler": "darp",
            "darp_start": 0,
            "darp_period": 2,
            "unlabeled_distribution": "unlabeled_distribution.json",
            "momentum": 0,
            "learning_rate": 0.01,
        },
    },
}


@flagsaver.flagsaver
def command(main, **settings):
    """Runs a command with flags."""
    FLAGS(["saved_by_20a1ee4", *(f"--{name}={value}" for name, value in settings.items())])
    code = main(["saved_by_20a1ee4"])
    assert code == 0, code


def save_run(name, settings):
    """Trains three steps of the command; records the export's answers then and at step 4."""
    model_dir = Path("runs", name)
    settings = {**SMALL_RUN, **settings, "model_dir": model_dir}
    command(train.main, **settings)
    older = sorted((model_dir / "checkpoints").iterdir())[:-1]
    for left_out in (*older, *model_dir.glob("events*"), model_dir / "results.png"):
        left_out.unlink()

    def answers(model_dir):
        serve = tf.saved_model.load(str(model_dir / "export")).signatures["serving_default"]
        return serve(images=tf.constant(images))["probabilities"].numpy()

    images = np.random.default_rng(9).integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8)
    recorded = {"images": images, "probabilities": answers(model_dir)}
    shutil.copytree(model_dir, later := Path("later", name))
    command(train.main, **{**settings, "steps": 4, "model_dir": later})
    recorded["at_step_4"] = answers(later)
    shutil.rmtree(model_dir / "export")  # that of a small learner is kept
    return recorded


def main():
    """Writes everything that this version of Keras writes."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    answers = {}
    keras.utils.set_random_seed(0)
    for name, *parts in learners():
        print(name, flush=True)
        answers[name] = save_learner(name, *parts)
    os.chdir(FOLDER)  # so that flags.cfg has paths that hold in a copy
    counts = [3.0 + digit for digit in range(10)]
    unlabeled_distribution.write("unlabeled_distribution.json", list("0123456789"), counts)
    for name, settings in RUNS[MAJOR].items():
        print(name, flush=True)
        answers[f"runs/{name}"] = save_run(name, settings)
    shutil.rmtree("later")
    for encoder in (daso_tf.encoders.wide_resnet(10, 1), daso_tf.encoders.resnet(18)):
        Path(f"{encoder.name}.json").write_text(encoder.to_json())
    (labeled, unlabeled, positions), labels = batch(3, with_positions=True)
    answers["next_batch"] = {
        "labeled": labeled,
        "unlabeled": unlabeled,
        "positions": positions,
        "labels": labels,
    }
    flat = {f"{name}/{key}": value for name, of in answers.items() for key, value in of.items()}
    np.savez_compressed("answers.npz", **flat)


if __name__ == "__main__":
    main()
