"""SimPro, ADELLO, ACR and CDMAD with an open set: images of no class are as if they were not there.

What every method does with an open set is in `test_open_set.py`.
"""

import numpy as np
import pytest
import tensorflow as tf
from command import completed
from dense_learner import COUNTS, K, dense_learner, step_inputs

from daso_tf import open_set
from daso_tf.balance import ACR
from daso_tf.learners import FixMatchTwoViews, FixMatchViews
from daso_tf.pseudo_labels import ADELLOPseudoLabeler, CDMADPseudoLabeler, SimProPseudoLabeler
from daso_tf.settings import combinations

# Every epoch is one step, so that all estimates are used and updated in a few steps.
METHODS = {
    "simpro": lambda: {
        "pseudo_labeler": SimProPseudoLabeler(COUNTS, momentum=0.5, epoch_steps=1),
        "threshold": 0.4,
    },
    "adello": lambda: {
        "pseudo_labeler": ADELLOPseudoLabeler(
            COUNTS, total_steps=5, momentum=0.5, distill_after=0, published_temperature=True
        ),
        "threshold": 0.5,
    },
    "cdmad": lambda: {
        "pseudo_labeler": CDMADPseudoLabeler(
            debias_after=0, epoch_steps=2, aligned_counts=[3.0, 2.0, 1.0]
        )
    },
    "acr": lambda: {
        "balanced_head": ACR(
            COUNTS, confidence_threshold=0.4, momentum=0.5, estimate_after=0, epoch_steps=1
        ),
        "threshold": 0.4,
    },
}
BELONGS = np.array([1, 1, 0] * 4, np.float32)  # the last image of the batch does not
KNOWN = np.flatnonzero(BELONGS)


def learner_of(method, **more):
    return dense_learner(**METHODS[method](), **more)


def views_of(method, step, others=False):
    """The views of a step and the labels; with others, images of no class show something else."""
    views, labels, _ = step_inputs(step)
    unlabeled = [views.weak, views.strong]
    if method != "adello":
        unlabeled.append(step_inputs(100 + step)[0].strong)
    if others:
        keep = BELONGS[:, None, None, None]
        noise = np.random.default_rng(99).normal(size=views.weak.shape).astype(np.float32)
        unlabeled = [keep * view + (1 - keep) * noise for view in unlabeled]
    kind = FixMatchViews if method == "adello" else FixMatchTwoViews
    return kind(views.labeled, *unlabeled), labels


def trained(method, others, belongs):
    """Trains four steps; returns what each computed, and the learner."""
    model = learner_of(method, open_set=open_set.Energy())
    given = {"belongs": tf.constant(BELONGS)} if belongs else {}
    outcomes = [model.train_on_views(*views_of(method, k, others), **given) for k in range(4)]
    found = [{**each.losses, "gradient_norm": each.gradient_norm} for each in outcomes]
    return found, [np.array(variable) for variable in model.weights], outcomes


@pytest.mark.parametrize("method", METHODS)
def test_images_of_no_class_change_nothing(method):
    """No loss, gradient or memory depends on what they show; without the open set, each does."""
    (ours, state, outcomes), (theirs, other_state, _) = (
        trained(method, others, belongs=True) for others in (False, True)
    )
    for one, other in zip(ours, theirs, strict=True):
        for name, value in one.items():
            assert float(value) == pytest.approx(float(other[name]), abs=1e-5), name
            assert float(value) > 0, name
    for one, other in zip(state, other_state, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    for outcome in outcomes:
        assert (outcome.weights.numpy()[BELONGS == 0] == 0).all()
        assert ((outcome.pseudo_labels.final.numpy() == -1) == (BELONGS == 0)).all()

    ours, theirs = (trained(method, others, belongs=False)[0] for others in (False, True))
    for name, value in ours[-1].items():
        assert float(value) != pytest.approx(float(theirs[-1][name]), abs=1e-4), name


@pytest.mark.parametrize("method", METHODS)
def test_a_step_is_that_of_the_other_images(method):
    """Memories are the same; losses of unlabeled images are still means over all of the batch."""
    views, labels = views_of(method, 0)
    alone = views._replace(
        **{name: tf.gather(getattr(views, name), KNOWN) for name in views._fields[1:]}
    )
    with_others, without = learner_of(method, open_set=open_set.Energy()), learner_of(method)
    for model in (with_others, without):
        model.step.assign(1)  # ACR estimates nothing before
    found = with_others.train_on_views(views, labels, belongs=tf.constant(BELONGS)).losses
    expected = without.train_on_views(alone, labels).losses
    for name, value in found.items():
        share = 1.0 if "supervised" in name else BELONGS.mean()
        assert float(value) == pytest.approx(share * float(expected[name]), rel=1e-4), name
    parts = [model.balanced_head or model.pseudo_labeler for model in (with_others, without)]
    for one, other in zip(*(part.weights for part in parts), strict=True):
        np.testing.assert_allclose(np.array(one), np.array(other), atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("belongs", [0.0, 1.0])
def test_all_images_or_none_may_belong(method, belongs):
    """All of them are taught as without an open set; without any, every number stays finite."""
    state = []
    for more in ({"open_set": open_set.Energy()}, {}):
        model = learner_of(method, **more)
        given = {"belongs": tf.fill(12, belongs)} if more else {}
        for step in range(3):
            outcome = model.train_on_views(*views_of(method, step), **given)
        assert all(np.isfinite(float(value)) for value in outcome.losses.values())
        part = model.balanced_head or model.pseudo_labeler
        state.append([np.array(each) for each in (*model.network_weights, *part.weights)])
    for one, other in zip(*state, strict=True):
        assert np.isfinite(one).all()
        if belongs:
            np.testing.assert_allclose(one, other, atol=1e-6)


def test_the_last_image_of_a_class_decides_where_it_belongs():
    head = ACR(COUNTS, confidence_threshold=0.7)
    head.build((None, K))
    sure, unsure = [0.8, 0.1, 0.1], [0.6, 0.2, 0.2]
    other = [0.1, 0.1, 0.8]
    probabilities = tf.constant([sure, other, unsure])
    present = tf.function(head.presence, jit_compile=True)
    for belongs, expected in (
        ([1.0, 1.0, 1.0], [0, 0, 1]),
        ([1.0, 1.0, 0.0], [0.5, 0, 0.5]),
        ([1.0, 0.0, 0.0], [1, 0, 0]),
        ([0.0, 0.0, 0.0], [0, 0, 0]),
    ):
        for presence in (head.presence, present):
            found = presence(probabilities, belongs=tf.constant(belongs))
            np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize(
    "flags",
    [
        ("--pseudo_labeler=simpro",),
        ("--pseudo_labeler=adello",),
        ("--pseudo_labeler=cdmad",),
        ("--balanced_head=acr", "--pseudo_labeler=linear"),
    ],
)
def test_the_command_combines_them(flags):
    combinations.check(completed("--dataset=digits", "--learner=fixmatch", "--open_set", *flags))
