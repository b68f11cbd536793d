"""USADTM teaches only images on whose class both measures agree, whatever the threshold."""

import numpy as np
import pytest
import tensorflow as tf
from dense_learner import SIZE, D, K, dense_learner

import daso_tf
from daso_tf.learners.usadtm import USADTMViews


def outcome_of(step, queue_size=4, threshold=0.0):
    """Computes a step in which the templates are random."""
    model = dense_learner(
        daso_tf.USADTM,
        queue_size=queue_size,
        pretrain_steps=3,
        confidence_threshold=threshold,
        first_step=step,
    )
    rng = np.random.default_rng(1)
    # Templates of different lengths: the most similar one is often not the nearest.
    templates = rng.normal(size=(K, D)) * np.array([[0.1], [1.0], [10.0]])
    for _ in range(queue_size):
        features = tf.constant(templates, tf.float32)
        model.pseudo_labeler.templates.push(features, tf.range(K))
    views = USADTMViews(
        *(
            tf.constant(rng.normal(size=(count, SIZE, SIZE, 3)), tf.float32)
            for count in (2, 40, 40, 40)
        )
    )
    features = model.encoder(views.weak).numpy()
    return model, features, model.compute_losses(views, tf.constant([0, 1]))


@pytest.mark.parametrize("step", [0, 2])
def test_nothing_is_taught_during_pretraining_with_a_threshold_of_0(step):
    _, _, outcome = outcome_of(step)
    assert not np.any(outcome.weights)
    assert float(outcome.losses["consistency_loss"]) == 0


def test_images_on_which_the_measures_disagree_are_not_taught_with_a_threshold_of_0():
    model, features, outcome = outcome_of(3)
    templates = model.pseudo_labeler.templates.prototypes().numpy()
    lengths = np.linalg.norm(features, axis=1)[:, None] * np.linalg.norm(templates, axis=1)
    similarity = features @ templates.T / lengths
    distance = np.linalg.norm(features[:, None] - templates[None], axis=-1)
    agreed = similarity.argmax(axis=1) == distance.argmin(axis=1)
    taught = agreed & (similarity.max(axis=1) > 0)
    assert taught.sum() > 0 and not agreed.all()
    np.testing.assert_array_equal(outcome.weights, taught)
