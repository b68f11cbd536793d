"""The train command the way a terminal runs it, in this process, on a small problem."""

import daso_tf
from daso_tf.commands import terminal
from daso_tf.commands.train import COMMAND
from daso_tf.settings.build import build_learner
from daso_tf.settings.flags import TRAIN, complete
from daso_tf.settings.settings import Settings, parse

SMALL = {
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
    "unlabeled_ratio": 2,
    "queue_size": 4,
    "pretrain_steps": 2,
    "distribution_period": 2,
    "confidence_threshold": 0.1,
    "jit_compile": "false",
    "report": False,
}


def arguments(**settings) -> list[str]:
    """The command line of a small problem with other settings."""
    return [f"--{name}={value}" for name, value in {**SMALL, **settings}.items()]


def parsed(*argv: str) -> Settings:
    """The settings of a command line of training, as they were given."""
    return parse(argv, TRAIN.values())[0]


def completed(*argv: str) -> Settings:
    """The same with the learner's defaults and the folders."""
    return complete(parsed(*argv))


def built(data: daso_tf.data.SemiSupervisedData, *argv: str) -> daso_tf.Learner:
    """The learner that the train command makes for data."""
    return build_learner(completed(*argv), data)


def run_train(*argv: str) -> int:
    """Runs the train command; returns its exit code."""
    return terminal.call(COMMAND, argv)
