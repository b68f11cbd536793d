"""A custom learner, UDA, on long-tailed digits: `python examples/custom_learner.py [STEPS]`.

Xie et al., "Unsupervised Data Augmentation for Consistency Training", NeurIPS 2020: the network is
taught the sharpened prediction of the weak view for the strong view where it is confident.
"""

import sys

import keras
import tensorflow as tf

import daso_tf
from daso_tf.learners import Learner, StepOutcome, mixing
from daso_tf.pseudo_labels import LinearPseudoLabeler
from daso_tf.step import losses


@keras.saving.register_keras_serializable(package="examples")
class UDA(Learner):
    def __init__(self, encoder, num_classes, pseudo_labeler=None, **kwargs):
        labeler = pseudo_labeler or LinearPseudoLabeler()
        names = ("supervised_loss", "consistency_loss")
        super().__init__(encoder, num_classes, labeler, loss_names=names, **kwargs)
        self.strong = daso_tf.augment.RandAugment(cutout=4)

    def make_views(self, labeled, unlabeled, seed):
        a, b, c, d = tf.unstack(tf.random.experimental.stateless_split(seed, 4, alg="philox"))
        strong = self.strong(self.weak(unlabeled, seed=c), seed=d)
        views = (self.weak(labeled, seed=a), self.weak(unlabeled, seed=b), strong)
        return [self.as_input(view) for view in views]

    def compute_losses(self, views, labels, positions=None):
        step = tf.convert_to_tensor(self.step)
        self.observe_labeled(views[0], labels)
        labeled, weak, strong = self.forward(*views)
        prediction = tf.stop_gradient(tf.nn.softmax(weak.logits))
        sharp = mixing.sharpen(prediction, temperature=0.4)
        made = self.pseudo_labeler(sharp, weak.features, step=step, positions=positions)
        weights = tf.cast(tf.reduce_max(prediction, axis=1) >= 0.8, tf.float32)
        per_image = weights * losses.soft_cross_entropy(made.target, strong.logits)
        terms = {
            "supervised_loss": self.supervised_loss(labels, labeled.logits, step),
            "consistency_loss": self.weight_at(step) * tf.reduce_mean(per_image),
            **self.pseudo_labeler.auxiliary_losses(weak.features, strong.features, step),
        }
        return StepOutcome(terms, labeled.logits, made, weights)


steps = int(sys.argv[1]) if len(sys.argv) > 1 else 600
sizes = {"labeled_head": 30, "unlabeled_head": 100, "resolution": 16, "source_size": 16}
data = daso_tf.data.load("digits", labeled_imbalance=10, unlabeled_imbalance=10, **sizes)
batches = daso_tf.data.training_batches(data, batch_size=32, unlabeled_ratio=2, seed=0)
keras.utils.set_random_seed(0)  # of the initial weights
settings = {"mean": data.mean, "std": data.std, "weak": daso_tf.augment.Weak(horizontal_flip=False)}
learner = UDA(daso_tf.encoders.wide_resnet(10, 1, (16, 16, 3)), 10, ema_decay=0.99, **settings)
learner.compile(daso_tf.optimizers.SGD(0.03, momentum=0.9, nesterov=True), jit_compile=False)
learner.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=2)
scores = learner.evaluate(daso_tf.data.evaluation_batches(data.test, 120), return_dict=True)
print(f"balanced accuracy {scores['balanced_accuracy']:.3f}")
