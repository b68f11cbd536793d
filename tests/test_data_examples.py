"""The examples in the docstrings of daso_tf.data run, and every exported name has one."""

import doctest
import importlib
import inspect
import pkgutil

import numpy as np
import pytest

import daso_tf
from daso_tf import data

COMMANDS = {"daso_tf.data.describe"}  # an entry module, which imports the layers above
MODULES = [
    module.name
    for module in pkgutil.walk_packages(data.__path__, "daso_tf.data.")
    if module.name not in COMMANDS
]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    module = importlib.import_module(name)
    outcome = doctest.testmod(module, extraglobs={"np": np, "daso_tf": daso_tf})
    assert outcome.failed == 0


def exported():
    values = {name: getattr(data, name) for name in data.__all__}
    return {name: value for name, value in values.items() if callable(value)}


@pytest.mark.parametrize("name", exported())
def test_exported_names_have_an_example_and_describe_their_arguments(name):
    value = exported()[name]
    tests = doctest.DocTestFinder(recurse=False).find(value, name, globs={})
    assert any(test.examples for test in tests)
    if name == "DataError":
        return
    for argument in inspect.signature(value).parameters:
        assert (
            f" {argument}: " in value.__doc__
            or f" *{argument}: " in value.__doc__
            or (f" **{argument}: " in value.__doc__)
        )
