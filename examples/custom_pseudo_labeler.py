"""A pseudo-labeler of one's own on digits: `python examples/custom_pseudo_labeler.py [STEPS]`.

Predictions are divided by what has been predicted lately, so that no class is taught more often
than others. What must be remembered is a variable of the layer: every way of saving saves it.
"""

import sys

import keras
import tensorflow as tf

import daso_tf
from daso_tf.pseudo_labels import PseudoLabeler, PseudoLabels


@keras.saving.register_keras_serializable(package="examples")
class EvenPseudoLabeler(PseudoLabeler):
    def __init__(self, decay=0.99, **kwargs):
        super().__init__(**kwargs)
        self.decay = decay

    def build(self, input_shape):
        logits_shape, _ = input_shape
        self.lately = self.add_weight(
            name="lately", shape=logits_shape[-1:], initializer="ones", trainable=False
        )
        self.built = True

    def call(self, linear_target, features, step, positions=None):
        prediction = tf.stop_gradient(linear_target)
        mean = tf.reduce_mean(prediction, axis=0)
        self.lately.assign(self.decay * self.lately + (1 - self.decay) * mean)
        target = prediction / self.lately
        target /= tf.reduce_sum(target, axis=1, keepdims=True)
        return PseudoLabels(
            linear=tf.argmax(prediction, axis=1),
            semantic=-tf.ones_like(tf.argmax(prediction, axis=1)),  # there is none
            final=tf.argmax(target, axis=1),
            confidence=tf.reduce_max(target, axis=1),
            target=target,
        )

    def get_config(self):
        return {**super().get_config(), "decay": self.decay}


steps = int(sys.argv[1]) if len(sys.argv) > 1 else 600
sizes = {"labeled_head": 30, "unlabeled_head": 100, "resolution": 16, "source_size": 16}
data = daso_tf.data.load("digits", labeled_imbalance=10, unlabeled_imbalance=10, **sizes)
batches = daso_tf.data.training_batches(data, batch_size=32, unlabeled_ratio=2, seed=0)
views = {"weak": daso_tf.augment.Weak(False), "strong": daso_tf.augment.RandAugment(cutout=4)}
encoder = daso_tf.encoders.wide_resnet(10, 1, (16, 16, 3))
learner = daso_tf.FixMatch(encoder, 10, EvenPseudoLabeler(), ema_decay=0.99, **views)
learner.compile(keras.optimizers.SGD(0.03, momentum=0.9, nesterov=True), jit_compile=False)
learner.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=2)
scores = learner.evaluate(daso_tf.data.evaluation_batches(data.test, 120), return_dict=True)
print(f"balanced accuracy {scores['balanced_accuracy']:.3f}")
