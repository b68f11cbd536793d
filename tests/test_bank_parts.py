"""Every part that the flags name takes a step on a feature bank, as on images."""

import math

import pytest
from command import arguments, completed

import daso_tf
from daso_tf.data import training_batches
from daso_tf.encoders.adapter import FeatureStatistics
from daso_tf.run import banks
from daso_tf.run.selected import selected
from daso_tf.settings import combinations, methods
from daso_tf.settings.build import build_learner

TABLES = {
    "learner": methods.LEARNERS,
    "pseudo_labeler": methods.PSEUDO_LABELERS,
    "threshold": methods.THRESHOLDS,
    "balanced_head": methods.BALANCED_HEADS,
    "supervised_loss": methods.SUPERVISED_LOSSES,
}
PARTS = [(flag, name) for flag, table in TABLES.items() for name in table]
REFUSED = {"mixmatch", "remixmatch", "crt"}  # two mix images; one retrains the head of a run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def settings_of(folder, **given):
    base = {"learner": "fixmatch", "pseudo_labeler": "linear", "freeze_encoder": True}
    base |= {"adapter_units": 8, "bank_weak_views": 2, "bank_strong_views": 2}
    return completed(*arguments(**base | given, cache_dir=folder, steps=2))


@pytest.mark.parametrize(("flag", "name"), PARTS, ids=lambda text: text)
def test_a_part_learns_from_a_bank(folder, flag, name):
    if name in REFUSED:
        with pytest.raises(ValueError, match=name):
            combinations.check(settings_of(folder, **{flag: name}))
        return
    settings = settings_of(folder, **{flag: name})
    combinations.check(settings)
    images = selected(settings).read(settings.source_size, settings.resolution, None, 10)
    bank = banks.banked(settings, images)
    model = build_learner(settings, bank)
    model.run_eagerly = name != "cdmad"  # its blank image is a constant of the compiled step
    ((images, labels),) = training_batches(
        bank, batch_size=4, unlabeled_ratio=2, seed=0, steps=1, **model.batch_arguments
    )
    logs = model.train_on_batch(images, labels, return_dict=True)
    assert math.isfinite(logs["loss"]) and logs["loss"] > 0
    assert model.predict(bank.test.views[0][:2], verbose=0).shape == (2, 10)


def test_strong_views_of_labeled_images_are_asked_for(folder):
    settings = settings_of(folder)
    images = selected(settings).read(settings.source_size, settings.resolution, None, 10)
    bank = banks.banked(settings, images)  # plain FixMatch needs none
    statistics = FeatureStatistics.of([bank.labeled.views[0][:, 0]])
    small = daso_tf.encoders.adapter("none", statistics)
    with pytest.raises(ValueError, match="strong_labeled_views=4"):
        daso_tf.FixMatch(small, 10, "simpro", data=bank)
