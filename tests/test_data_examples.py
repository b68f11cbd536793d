"""The examples in the docstrings of daso_tf.data run and give what they say."""

import doctest
import importlib

import numpy as np
import pytest

import daso_tf


@pytest.mark.parametrize(
    "module",
    ["batches", "describe", "loading", "long_tail", "semi_supervised", "sources.restricted_pickle"],
)
def test_docstring_examples(module):
    module = importlib.import_module(f"daso_tf.data.{module}")
    outcome = doctest.testmod(module, extraglobs={"np": np, "daso_tf": daso_tf})
    assert outcome.attempted > 0
    assert outcome.failed == 0
