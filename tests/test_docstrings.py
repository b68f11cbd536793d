"""The examples in the docstrings of all modules run and give what they show."""

import doctest
import importlib
import pkgutil

import keras
import numpy as np
import pytest
import tensorflow as tf

import daso_tf

MODULES = [module.name for module in pkgutil.walk_packages(daso_tf.__path__, "daso_tf.")]


@pytest.fixture
def eager():
    """Steps are not compiled: that takes longer than to run them once."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.usefixtures("eager")
@pytest.mark.filterwarnings("ignore:Even though")
@pytest.mark.parametrize("name", ["daso_tf", *MODULES])
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where examples write files
    if name.endswith("__main__"):
        pytest.skip("it is a program")
    names = {"daso_tf": daso_tf, "keras": keras, "np": np, "tf": tf}
    outcome = doctest.testmod(importlib.import_module(name), extraglobs=names)
    assert outcome.failed == 0


def test_examples_are_found():
    finder = doctest.DocTestFinder()
    with_examples = [
        name
        for name in MODULES
        if any(test.examples for test in finder.find(importlib.import_module(name)))
    ]
    assert len(with_examples) > 50
