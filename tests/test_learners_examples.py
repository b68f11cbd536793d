"""The examples in the docstrings of the learners and what they are made of give what they say."""

import doctest
import importlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import daso_tf

MODULES = ["losses", "learning_rate", "pseudo_labels.template_matching"] + [
    f"learners.{name}"
    for name in [
        "daso",
        "fixmatch",
        "mean_teacher",
        "mixing",
        "mixmatch",
        "pseudo_label",
        "remixmatch",
        "supervised",
        "usadtm",
    ]
]


@pytest.fixture
def eager():
    """The step is not compiled: one does not pay for it."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.usefixtures("eager")
@pytest.mark.filterwarnings("ignore:Even though")
@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    module = importlib.import_module(f"daso_tf.{name}")
    names = {"daso_tf": daso_tf, "keras": keras, "np": np, "tf": tf}
    outcome = doctest.testmod(module, extraglobs=names)
    assert outcome.attempted > 0
    assert outcome.failed == 0
