"""The train command the way a terminal runs it, in this process, on a small problem."""

from absl.testing import flagsaver

from daso_tf.commands import train
from daso_tf.settings.flags import FLAGS

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
}


def arguments(**settings):
    return [f"--{name}={value}" for name, value in {**SMALL, **settings}.items()]


@flagsaver.flagsaver
def parsed(*argv):
    """The value of every flag after a command line, by name."""
    FLAGS(["train", *argv])
    return {name: value for name, value in FLAGS.flag_values_dict().items() if name != "flagfile"}


@flagsaver.flagsaver
def run_train(*argv):
    """Runs the train command; returns its exit code."""
    return train.main(FLAGS(["train", *argv]))
