"""Each learner's losses and their gradient against the method's plain statement in NumPy.

The encoder is one linear layer, which NumPy can compute too. The gradient is compared with finite
differences of the statement, in which targets are constants. This shows that no gradient passes
through a target.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from channels import STATISTICS
from numpy_statements import cosine, log_softmax, softmax

import daso_tf
from daso_tf.learners import fixmatch, mean_teacher, mixmatch, pseudo_label, remixmatch, usadtm
from daso_tf.learners.mixing import MixUp
from daso_tf.pseudo_labels import DASOPseudoLabeler

B, MU, K, SIZE, D = 4, 2, 3, 4, 5
LABELS = np.array([0, 2, 1, 2])  # every class, so every prototype is defined
STEP, RAMP_STEPS = 3, 4
RAMP = STEP / RAMP_STEPS
BLEND, T_PROTO, ALIGNMENT = 0.3, 0.7, 0.6


class Network:
    """Encoder, classifier and rotation head, in float64."""

    def __init__(self, layers):
        self.weights = [np.array(w, np.float64) for layer in layers for w in layer.get_weights()]

    def features(self, images):
        return images.reshape(len(images), -1) @ self.weights[0] + self.weights[1]

    def logits(self, images):
        return self.features(images) @ self.weights[2] + self.weights[3]

    def rotation_logits(self, images):
        return self.features(images) @ self.weights[4] + self.weights[5]

    def moved(self, direction, distance):
        other = Network([])
        other.weights = [w + distance * d for w, d in zip(self.weights, direction, strict=True)]
        return other


def cross_entropy(targets, logits):
    targets = np.eye(logits.shape[1])[targets] if np.ndim(targets) == 1 else targets
    return -np.mean(np.sum(targets * log_softmax(logits), axis=1))


def squared_error(targets, logits):
    return np.mean((softmax(logits) - targets) ** 2)


def sharpened(p):
    return p**2 / np.sum(p**2, axis=1, keepdims=True)  # T = 0.5


def mixed(values, mixup):
    values = np.concatenate(values)
    return mixup.weight * values + (1 - mixup.weight) * values[mixup.order]


class DASO:
    """Blends in a fixed share of semantic pseudo-labels, from the prototypes of the features."""

    def __init__(self, observed):
        self.prototypes = np.array([observed[k == LABELS].mean(axis=0) for k in range(K)])

    def semantic(self, features):
        return softmax(cosine(features, self.prototypes) / T_PROTO)

    def blend(self, linear, features):
        return (1 - BLEND) * linear + BLEND * self.semantic(features)

    def alignment(self, target, features):
        logits = cosine(features, self.prototypes) / T_PROTO
        return {"alignment_loss": ALIGNMENT * cross_entropy(target, logits)}


class Linear:
    """Leaves the predictions as they are."""

    def __init__(self, observed):
        pass

    def semantic(self, features):
        return None

    def blend(self, linear, features):
        return linear

    def alignment(self, target, features):
        return {}


def supervised(views, network, teacher, labeler):
    return lambda net: {"supervised_loss": cross_entropy(LABELS, net.logits(views))}


def pseudo_label_statement(views, network, teacher, labeler):
    p = softmax(network.logits(views.unlabeled))
    taught, classes = p.max(axis=1) >= 0.4, p.argmax(axis=1)

    def losses(net):
        entropies = -log_softmax(net.logits(views.unlabeled))[np.arange(B * MU), classes]
        return {
            "supervised_loss": cross_entropy(LABELS, net.logits(views.labeled)),
            "consistency_loss": 2.0 * RAMP * np.sum(taught * entropies) / (B * MU),
        }

    return losses


def fixmatch_statement(views, network, teacher, labeler):
    labeler = labeler(teacher.features(views.labeled))
    features = network.features(views.weak)
    p = labeler.blend(softmax(network.logits(views.weak)), features)
    semantic = labeler.semantic(features)
    taught, classes = p.max(axis=1) >= 0.4, p.argmax(axis=1)

    def losses(net):
        entropies = -log_softmax(net.logits(views.strong))[np.arange(B * MU), classes]
        return {
            "supervised_loss": cross_entropy(LABELS, net.logits(views.labeled)),
            "consistency_loss": 2.0 * RAMP * np.sum(taught * entropies) / (B * MU),
            **labeler.alignment(semantic, net.features(views.strong)),
        }

    return losses


def mean_teacher_statement(views, network, teacher, labeler):
    labeler = labeler(teacher.features(views.labeled))
    features = teacher.features(views.teacher)
    target = labeler.blend(softmax(teacher.logits(views.teacher)), features)
    semantic = labeler.semantic(features)
    return lambda net: {
        "supervised_loss": cross_entropy(LABELS, net.logits(views.labeled)),
        "consistency_loss": 50 * RAMP * squared_error(target, net.logits(views.student)),
        **labeler.alignment(semantic, net.features(views.student)),
    }


def mixmatch_statement(views, network, teacher, labeler):
    labeler = labeler(teacher.features(views.labeled))
    p = (softmax(network.logits(views.first)) + softmax(network.logits(views.second))) / 2
    features = network.features(views.first)
    target = labeler.blend(sharpened(p), features)
    semantic = labeler.semantic(features)
    targets = mixed([np.eye(K)[LABELS], target, target], views.mixup)
    images = mixed([views.labeled, views.first, views.second], views.mixup)
    return lambda net: {
        "supervised_loss": cross_entropy(targets[:B], net.logits(images[:B])),
        "consistency_loss": 100 * RAMP * squared_error(targets[B:], net.logits(images[B:])),
        **labeler.alignment(semantic, net.features(views.second)),
    }


def remixmatch_statement(views, network, teacher, labeler):
    labeler = labeler(teacher.features(views.labeled))
    features = network.features(views.weak)
    target = labeler.blend(sharpened(softmax(network.logits(views.weak))), features)
    semantic = labeler.semantic(features)
    targets = mixed([np.eye(K)[LABELS], target, target, target], views.mixup)
    images = [views.labeled, views.weak, views.strong, views.second_strong]
    images = mixed(images, views.mixup)
    turned = np.stack([np.rot90(x, n) for x, n in zip(views.strong, views.turns, strict=True)])
    return lambda net: {
        "supervised_loss": cross_entropy(targets[:B], net.logits(images[:B])),
        "consistency_loss": 1.5 * RAMP * cross_entropy(targets[B:], net.logits(images[B:])),
        "premixup_loss": 0.5 * RAMP * cross_entropy(target, net.logits(views.strong)),
        "rotation_loss": 0.5 * cross_entropy(views.turns, net.rotation_logits(turned)),
        **labeler.alignment(semantic, net.features(views.strong)),
    }


def mutual_information(p, q):
    joint = np.einsum("bi,bj->ij", p, q) / len(p)
    joint = (joint + joint.T) / 2
    marginal = joint.sum(axis=0)
    return -np.sum(joint * np.log(joint / np.outer(marginal, marginal)))


def usadtm_statement(views, network, teacher, labeler):
    features, labeled = network.features(views.weak), network.features(views.labeled)
    templates = np.array([labeled[k == LABELS].mean(axis=0) for k in range(K)])
    similarity = cosine(features, templates)
    classes = similarity.argmax(axis=1)
    distance = np.linalg.norm(features[:, None] - templates[None], axis=2)
    taught = (classes == distance.argmin(axis=1)) & (similarity.max(axis=1) >= 0.3)
    assert 0 < taught.sum() < B * MU  # some are taught, some are not

    def losses(net):
        entropies = -log_softmax(net.logits(views.strong))[np.arange(B * MU), classes]
        a, b, c = (softmax(net.logits(view)) for view in (views.identity, views.weak, views.strong))
        information = [mutual_information(*pair) for pair in ((a, b), (a, c), (b, c))]
        return {
            "supervised_loss": cross_entropy(LABELS, net.logits(views.labeled)),
            "consistency_loss": RAMP * np.sum(taught * entropies) / (B * MU),
            "mutual_information_loss": 0.1 * np.mean(information),
        }

    return losses


def random_views(views_class):
    """Makes random views of every kind in single precision, the same numbers for both sides."""
    rng = np.random.default_rng(0)

    def images(count):
        return rng.normal(size=(count, SIZE, SIZE, 3)).astype(np.float32)

    count = B + MU * B * (3 if views_class is remixmatch.ReMixMatchViews else 2)
    special = {
        "labeled": lambda: images(B),
        "turns": lambda: rng.integers(0, 4, B * MU),
        "mixup": lambda: MixUp(np.float32(0.8), rng.permutation(count)),
    }
    return views_class(*(special.get(f, lambda: images(B * MU))() for f in views_class._fields))


LEARNERS = {
    "PseudoLabel": (
        pseudo_label.PseudoLabelViews,
        pseudo_label_statement,
        {"threshold": 0.4, "unlabeled_weight": 2.0},
    ),
    "FixMatch": (
        fixmatch.FixMatchViews,
        fixmatch_statement,
        {"threshold": 0.4, "unlabeled_weight": 2.0},
    ),
    "MeanTeacher": (mean_teacher.MeanTeacherViews, mean_teacher_statement, {}),
    "MixMatch": (mixmatch.MixMatchViews, mixmatch_statement, {}),
    "ReMixMatch": (remixmatch.ReMixMatchViews, remixmatch_statement, {}),
    "USADTM": (
        usadtm.USADTMViews,
        usadtm_statement,
        {"confidence_threshold": 0.3, "pretrain_steps": STEP},
    ),
}


def linear_learner(name, **arguments):
    keras.utils.set_random_seed(3)
    image = keras.Input((SIZE, SIZE, 3))
    features = keras.layers.Dense(D)(keras.layers.Flatten()(image))
    model = getattr(daso_tf, name)(keras.Model(image, features), K, **STATISTICS, **arguments)
    rng = np.random.default_rng(1)
    for layer in (model.encoder, model.classifier, model.ema_encoder, model.ema_classifier):
        layer.set_weights([0.3 * rng.normal(size=w.shape) for w in layer.get_weights()])
    model.step.assign(STEP)
    return model


def check(model, views, statement, labeler):
    heads = [model.rotation_head] if hasattr(model, "rotation_head") else []
    network = Network([model.encoder, model.classifier, *heads])
    teacher = Network([model.ema_encoder, model.ema_classifier])
    losses = statement(views, network, teacher, labeler)
    with tf.GradientTape() as tape:
        outcome = model.compute_losses(tf.nest.map_structure(tf.constant, views), LABELS)
        total = tf.add_n(list(outcome.losses.values()))
    expected = losses(network)
    assert outcome.losses.keys() == expected.keys()
    for name, value in expected.items():
        assert float(outcome.losses[name]) == pytest.approx(value, rel=1e-4), name

    gradients = tape.gradient(total, model.trainable_variables, unconnected_gradients="zero")
    rng = np.random.default_rng(2)
    for _ in range(3):
        direction = [rng.normal(size=w.shape) for w in network.weights]
        ahead, behind = (
            sum(losses(network.moved(direction, distance)).values()) for distance in (1e-5, -1e-5)
        )
        slope = sum(np.sum(np.array(g) * d) for g, d in zip(gradients, direction, strict=True))
        assert slope == pytest.approx((ahead - behind) / 2e-5, rel=1e-3, abs=1e-4)
    return outcome


@pytest.mark.parametrize("name", LEARNERS)
def test_learner_computes_its_papers_losses(name):
    views_class, statement, arguments = LEARNERS[name]
    model = linear_learner(name, ramp_steps=RAMP_STEPS, **arguments)
    check(model, random_views(views_class), statement, Linear)


@pytest.mark.parametrize("name", ["FixMatch", "MeanTeacher", "MixMatch", "ReMixMatch"])
def test_learner_computes_the_same_with_daso(name):
    views_class, statement, arguments = LEARNERS[name]
    labeler = DASOPseudoLabeler(
        queue_size=8,
        prototype_temperature=T_PROTO,
        distribution_aware=False,
        blend_weight=BLEND,
        alignment_weight=ALIGNMENT,
        pretrain_steps=STEP,
    )
    model = linear_learner(name, pseudo_labeler=labeler, ramp_steps=RAMP_STEPS, **arguments)
    outcome = check(model, random_views(views_class), statement, DASO)
    model.remember(outcome)
    np.testing.assert_array_equal(
        labeler.distribution.counted, np.bincount(outcome.pseudo_labels.final, minlength=K)
    )


def test_supervised_learns_from_the_labeled_images_alone():
    model = linear_learner("Supervised")
    views = random_views(fixmatch.FixMatchViews).labeled
    outcome = check(model, views, supervised, Linear)
    assert outcome.pseudo_labels is None


def test_remixmatch_aligns_its_guess_before_it_sharpens():
    class Reverse(keras.layers.Layer):
        def call(self, probabilities):
            return probabilities[:, ::-1]

    def statement(views, network, teacher, labeler):
        swapped = Network([])
        swapped.weights = [*network.weights[:2], network.weights[2][:, ::-1]]
        swapped.weights += [network.weights[3][::-1], *network.weights[4:]]
        return remixmatch_statement(views, swapped, teacher, labeler)

    model = linear_learner("ReMixMatch", distribution_alignment=Reverse(), ramp_steps=RAMP_STEPS)
    check(model, random_views(remixmatch.ReMixMatchViews), statement, Linear)


def test_usadtm_teaches_nothing_at_first():
    model = linear_learner("USADTM", pretrain_steps=STEP + 1, confidence_threshold=0.3)
    outcome = model.compute_losses(random_views(usadtm.USADTMViews), LABELS)
    assert float(outcome.losses["consistency_loss"]) == 0
    assert not np.any(outcome.weights)
