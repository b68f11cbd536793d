"""A custom pseudo-labeler on digits: `python examples/custom_pseudo_labeler.py [STEPS]`.

It divides predictions by the mean of recent predictions. All classes are then taught about equally
often. The mean is a weight of the layer, so checkpoints and saved models contain it.
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
        self.recent = self.add_weight(
            name="recent", shape=logits_shape[-1:], initializer="ones", trainable=False
        )
        self.built = True

    def call(self, linear_target, features, step, positions=None):
        prediction = tf.stop_gradient(linear_target)
        mean = tf.reduce_mean(prediction, axis=0)
        self.recent.assign(self.decay * self.recent + (1 - self.decay) * mean)
        target = prediction / self.recent
        target /= tf.reduce_sum(target, axis=1, keepdims=True)
        return PseudoLabels.from_target(target, linear=tf.argmax(prediction, axis=1))

    def get_config(self):
        return {**super().get_config(), "decay": self.decay}


steps = int(sys.argv[1]) if len(sys.argv) > 1 else 600
sizes = {"labeled_head": 30, "unlabeled_head": 100, "resolution": 16, "source_size": 16}
data = daso_tf.data.load("digits", labeled_imbalance=10, unlabeled_imbalance=10, **sizes)
batches = daso_tf.data.training_batches(data, batch_size=32, unlabeled_ratio=2, seed=0)
keras.utils.set_random_seed(0)  # of the initial weights
learner = daso_tf.FixMatch(
    daso_tf.encoders.wide_resnet(10, 1, (16, 16, 3)),
    data.num_classes,
    EvenPseudoLabeler(),
    weak=daso_tf.augment.Weak(horizontal_flip=False),
    strong=daso_tf.augment.RandAugment(cutout=4),
    mean=data.mean,
    std=data.std,
    ema_decay=0.99,
)
learner.compile(daso_tf.optimizers.SGD(0.03, momentum=0.9, nesterov=True), jit_compile=False)
learner.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=2)
scores = learner.evaluate(daso_tf.data.evaluation_batches(data.test, 120), return_dict=True)
print(f"balanced accuracy {scores['balanced_accuracy']:.3f}")
