"""A learner of one's own, UDA, on long-tailed digits: `python examples/custom_learner.py [STEPS]`.

Xie et al., "Unsupervised Data Augmentation for Consistency Training", NeurIPS 2020: the strong view
is taught the sharpened prediction for the weak one where that is confident.
"""

import sys

import keras
import tensorflow as tf

import daso_tf
from daso_tf.learners import PseudoLabelingLearner, StepOutcome, mixing
from daso_tf.step import losses


@keras.saving.register_keras_serializable(package="examples")
class UDA(PseudoLabelingLearner):
    def __init__(self, encoder, num_classes, pseudo_labeler=None, **kwargs):
        names = ("supervised_loss", "consistency_loss")
        super().__init__(encoder, num_classes, pseudo_labeler, loss_names=names, **kwargs)
        self.strong = daso_tf.augment.RandAugment(cutout=4)

    def make_views(self, labeled, unlabeled, seed):
        a, b, c, d = tf.unstack(tf.random.experimental.stateless_split(seed, 4, alg="philox"))
        strong = self.strong(self.weak(unlabeled, seed=c), seed=d)
        views = (self.weak(labeled, seed=a), self.weak(unlabeled, seed=b), strong)
        return [self.as_input(view) for view in views]

    def compute_losses(self, views, labels):
        step = tf.convert_to_tensor(self.step)
        self.observe_labeled(views[0], labels)
        labeled, weak, strong = self.forward(*views)
        prediction = tf.stop_gradient(tf.nn.softmax(weak.logits))
        mask = tf.cast(tf.reduce_max(prediction, axis=1) >= 0.8, tf.float32)
        sharp = mixing.sharpen(prediction, temperature=0.4)
        taught = self.pseudo_labeler(sharp, weak.features, step=step)
        consistency = tf.reduce_mean(mask * losses.soft_cross_entropy(taught.target, strong.logits))
        terms = {
            "supervised_loss": self.supervised_loss(labels, labeled.logits, step),
            "consistency_loss": self.weight_at(step) * consistency,
            **self.pseudo_labeler.auxiliary_losses(weak.features, strong.features, step),
        }
        return StepOutcome(terms, labeled.logits, taught, mask)


steps = int(sys.argv[1]) if len(sys.argv) > 1 else 600
sizes = {"labeled_head": 30, "unlabeled_head": 100, "resolution": 16, "source_size": 16}
data = daso_tf.data.load("digits", labeled_imbalance=10, unlabeled_imbalance=10, **sizes)
batches = daso_tf.data.training_batches(data, batch_size=32, unlabeled_ratio=2, seed=0)
weak = daso_tf.augment.Weak(horizontal_flip=False)
learner = UDA(daso_tf.encoders.wide_resnet(10, 1, (16, 16, 3)), 10, weak=weak, ema_decay=0.99)
learner.compile(keras.optimizers.SGD(0.03, momentum=0.9, nesterov=True), jit_compile=False)
learner.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=2)
scores = learner.evaluate(daso_tf.data.evaluation_batches(data.test, 120), return_dict=True)
print(f"balanced accuracy {scores['balanced_accuracy']:.3f}")
