"""A method with memory, a second strong view and losses of its own, on digits.

`python examples/custom_step_losses.py [STEPS]`. Both losses include the class distribution that the
network has predicted lately. Where the pseudo-label is unsure, the two strong views must agree.
"""

import sys

import keras
import tensorflow as tf

import daso_tf
from daso_tf.pseudo_labels import PseudoLabeler, PseudoLabels


@keras.saving.register_keras_serializable(package="examples")
class Agreement(PseudoLabeler):
    asks_for = frozenset({"step_losses", "joint_pass"})
    loss_names = ("agreement_loss",)
    strong_views = 2

    def build(self, input_shape):
        shape, uniform = input_shape[0][-1:], keras.initializers.Constant(1 / input_shape[0][-1])
        self.recent = self.add_weight(
            name="recent", shape=shape, initializer=uniform, trainable=False
        )
        self.built = True

    def call(self, linear_target, features, step, positions=None):
        target = tf.stop_gradient(linear_target)
        self.recent.assign(0.99 * self.recent + 0.01 * tf.reduce_mean(target, axis=0))
        return PseudoLabels.from_target(target, linear=tf.argmax(target, axis=1))

    def step_losses(self, logits, labels, pseudo_labels, weights, step, positions=None):
        cross_entropy, prior = tf.nn.sparse_softmax_cross_entropy_with_logits, self.recent + 1e-6
        first, second = (view + tf.math.log(prior) for view in logits.strong)
        taught = [cross_entropy(pseudo_labels.final, view) for view in (first, second)]
        apart = tf.reduce_sum((tf.nn.softmax(first) - tf.nn.softmax(second)) ** 2, axis=1)
        supervised = cross_entropy(labels, logits.labeled + tf.math.log(prior))
        return {
            "supervised_loss": tf.reduce_mean(supervised),
            "consistency_loss": tf.reduce_mean(weights * (taught[0] + taught[1])) / 2,
            "agreement_loss": tf.reduce_mean((1 - weights) * apart),
        }


steps = int(sys.argv[1]) if len(sys.argv) > 1 else 600
sizes = {"labeled_head": 30, "unlabeled_head": 100, "resolution": 16, "source_size": 16}
data = daso_tf.data.load("digits", labeled_imbalance=10, unlabeled_imbalance=10, **sizes)
views = {"weak": daso_tf.augment.Weak(False), "strong": daso_tf.augment.RandAugment(cutout=4)}
encoder = daso_tf.encoders.wide_resnet(10, 1, (16, 16, 3))
learner = daso_tf.FixMatch(encoder, 10, Agreement(), data=data, ema_decay=0.99, **views)
learner.compile(daso_tf.optimizers.SGD(0.03, momentum=0.9, nesterov=True), jit_compile=False)
batches = daso_tf.data.training_batches(data, batch_size=32, unlabeled_ratio=2, seed=0)
learner.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=2)
scores = learner.evaluate(daso_tf.data.evaluation_batches(data.test, 120), return_dict=True)
print(f"balanced accuracy {scores['balanced_accuracy']:.3f}")
