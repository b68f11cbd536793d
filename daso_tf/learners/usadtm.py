"""USADTM: classes that views agree on, and templates that say which class it is."""

from __future__ import annotations

from typing import NamedTuple

import keras
import tensorflow as tf

from daso_tf.augment import RandAugment
from daso_tf.pseudo_labels import TemplateMatchingPseudoLabeler
from daso_tf.step import losses
from daso_tf.step.outcome import StepOutcome
from daso_tf.step.pseudo_labeling import PseudoLabelingLearner, check_confidence_threshold


class Views(NamedTuple):
    """The views of a USADTM step, as the encoder takes them.

    Attributes:
        labeled: float `(batch, resolution, resolution, 3)`, weak views of the labeled images.
        identity: float `(mu * batch, resolution, resolution, 3)`, the unlabeled ones as they are.
        weak: float `(mu * batch, resolution, resolution, 3)`, of the same unlabeled ones.
        strong: float `(mu * batch, resolution, resolution, 3)`, of the same unlabeled ones.
    """

    labeled: tf.Tensor
    identity: tf.Tensor
    weak: tf.Tensor
    strong: tf.Tensor


@keras.saving.register_keras_serializable(package="daso_tf")
class USADTM(PseudoLabelingLearner):
    """USADTM: three views share their class, and the strong one learns the nearest template's.

    A template is the mean feature of a class's labeled images. An image is taught the class whose
    template is nearest to its weak view, if cosine similarity and Euclidean distance agree on it
    and the similarity reaches the threshold.

    Args:
        encoder: A `keras.Model` from normalised float images `(batch, height, width, 3)` to
            features `(batch, D)`.
        num_classes: K, at least 2.
        strong: Layer that makes a strong view of a weak one; by default `RandAugment()`.
        queue_size: Labeled features kept for each class, at least 1.
        pretrain_steps: The first steps, in which no pseudo-label is taught.
        confidence_threshold: Least cosine similarity of what is taught, in [0, 1].
        mutual_information_weight: Weight of the views' mutual information, at least 0.
        **kwargs: As for `PseudoLabelingLearner` and `Learner`: `unlabeled_weight`, `ramp_steps`,
            `supervised_loss`, `weak`, `weight_decay`, `ema_decay`, `resolution`, `mean`, `std`,
            `class_names`, `seed`, `name`.

    Raises:
        ValueError: If an argument is outside its range, or a pseudo-labeler is given.

    Example:

    >>> model = USADTM(daso_tf.encoders.wide_resnet(10, 1), num_classes=10, pretrain_steps=100)
    >>> model.compile(keras.optimizers.SGD(0.03, momentum=0.9, nesterov=True))
    >>> labeled, unlabeled = np.zeros((4, 32, 32, 3), "uint8"), np.zeros((8, 32, 32, 3), "uint8")
    >>> logs = model.train_on_batch((labeled, unlabeled), np.zeros(4, "int32"), return_dict=True)
    >>> float(logs["consistency_loss"])
    0.0

    Reference:
        Han, Gao, Yuan and Wang, "Unsupervised Semantic Aggregation and Deformable Template Matching
        for Semi-Supervised Learning", NeurIPS 2020.
    """

    refuses_pseudo_labeler = "its pseudo-labels are the nearest templates' classes"
    refuses_balanced_head = "its pseudo-labels are the nearest templates' classes, not a head's"
    refuses_threshold = "its confidence is the similarity to a template, which is no probability"

    def __init__(
        self,
        encoder: keras.Model,
        num_classes: int,
        *,
        strong: keras.layers.Layer | None = None,
        queue_size: int = 256,
        pretrain_steps: int = 500,
        confidence_threshold: float = 0.85,
        mutual_information_weight: float = 0.1,
        **kwargs,
    ):
        check_confidence_threshold(confidence_threshold)
        if not mutual_information_weight >= 0:
            raise ValueError(
                f"mutual_information_weight must be at least 0, not {mutual_information_weight}."
            )
        self._refuse_pseudo_labeler(kwargs)
        super().__init__(
            encoder,
            num_classes,
            TemplateMatchingPseudoLabeler(queue_size, pretrain_steps),
            loss_names=("supervised_loss", "consistency_loss", "mutual_information_loss"),
            **kwargs,
        )
        self.confidence_threshold = confidence_threshold
        self.mutual_information_weight = float(mutual_information_weight)
        self.strong = RandAugment() if strong is None else strong
        self.strong.build((None, None, None, 3))

    def make_views(self, labeled, unlabeled, seed) -> Views:
        """Makes weak views of both sides, and of the unlabeled one strong views and plain ones."""
        seeds = tf.random.experimental.stateless_split(seed, 4, alg="philox")
        strong_start = self.weak(unlabeled, seed=seeds[2])  # a weak draw of its own
        return Views(
            labeled=self.as_input(self.weak(labeled, seed=seeds[0])),
            identity=self.as_input(unlabeled),
            weak=self.as_input(self.weak(unlabeled, seed=seeds[1])),
            strong=self.as_input(self.strong(strong_start, seed=seeds[3])),
        )

    def compute_losses(self, views: Views, labels, positions=None) -> StepOutcome:
        """Computes the losses of one step."""
        labeler = self.pseudo_labeler
        step = tf.convert_to_tensor(self.step)
        labeled, identity, weak, strong = self.forward(*views)
        # The templates are of the trained network, from the same joint batch.
        labeler.observe(tf.stop_gradient(labeled.features), labels)

        pseudo_labels = labeler(
            tf.nn.softmax(weak.logits), weak.features, step=step, positions=positions
        )
        mask = tf.cast(pseudo_labels.confidence >= self.confidence_threshold, tf.float32)
        consistency_loss = losses.consistency(pseudo_labels.final, mask, strong.logits)
        pairs = [(identity, weak), (identity, strong), (weak, strong)]
        information = [losses.mutual_information(a.logits, b.logits) for a, b in pairs]
        terms = {
            "supervised_loss": self.supervised_loss(labels, labeled.logits, step),
            "consistency_loss": self.weight_at(step) * consistency_loss,
            "mutual_information_loss": self.mutual_information_weight * tf.add_n(information) / 3,
        }
        return StepOutcome(terms, labeled.logits, pseudo_labels, mask)

    def get_config(self):
        """Returns the arguments that make this model again."""
        config = super().get_config()
        del config["pseudo_labeler"]  # it follows from the other arguments
        return {
            **config,
            "strong": keras.saving.serialize_keras_object(self.strong),
            "queue_size": self.pseudo_labeler.templates.queue_size,
            "pretrain_steps": self.pseudo_labeler.pretrain_steps,
            "confidence_threshold": self.confidence_threshold,
            "mutual_information_weight": self.mutual_information_weight,
        }
