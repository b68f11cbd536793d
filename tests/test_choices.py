"""The choices that flags name, against the tables that have them and import TensorFlow."""

import pytest

from daso_tf import encoders
from daso_tf.commands import predict
from daso_tf.commands.command_lines import COMMANDS
from daso_tf.encoders.adapter import ADAPTERS
from daso_tf.platform.strategies import STRATEGIES
from daso_tf.pseudo_labels import daso
from daso_tf.settings import automatic, methods
from daso_tf.settings.flags import TRAIN
from daso_tf.settings.optimizers import COSINES, OPTIMIZERS
from daso_tf.step import closed_forms
from daso_tf.step.weight_decay import DECAYED


@pytest.mark.parametrize(
    ("flag", "before", "table"),
    [
        ("adapter", [], ADAPTERS),
        ("answer", ["run", "labels_only", "auto"], closed_forms.LINEAR),
        ("cosine", ["none"], COSINES),
        ("decayed", [], DECAYED),
        ("optimizer", [], OPTIMIZERS),
        ("strategy", [], STRATEGIES),
    ],
)
def test_a_flag_has_the_choices_of_its_table(flag, before, table):
    assert TRAIN[flag].choices == (*before, *table)


def test_the_help_of_the_encoder_names_all_families():
    families = "; ".join(family.usage for family in encoders.FAMILIES)
    assert TRAIN["encoder"].text == f"{families}."


def test_the_temperature_is_chosen_by_the_word_of_the_pseudo_labeler():
    assert methods.AUTO == daso.AUTO


def test_help_names_the_data_sets_whose_settings_are_chosen():
    assert " or ".join(automatic.DATASETS) in COMMANDS["train"].details


def test_predict_writes_the_formats_that_its_flag_names():
    (flag,) = (flag for flag in COMMANDS["predict"].flags if flag.name == "format")
    assert flag.choices == tuple(predict._FORMATS)
