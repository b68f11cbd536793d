"""USADTM: pseudo-labels by the nearest template, and mutual information between views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import keras
import tensorflow as tf

from daso_tf.platform.checks import checked_number
from daso_tf.pseudo_labels import TemplateMatchingPseudoLabeler
from daso_tf.step import known_images, losses
from daso_tf.step.compatibility import Conflict
from daso_tf.step.learner import NO_MARGINS, Learner
from daso_tf.step.outcome import StepOutcome
from daso_tf.step.stored_views import default_strong


class USADTMViews(NamedTuple):
    """The views of a USADTM step, as the encoder takes them.

    Attributes:
        labeled: float `(batch, resolution, resolution, 3)`, weak views of the labeled images.
        identity: float `(mu * batch, resolution, resolution, 3)`, the unlabeled images without
            augmentation.
        weak: float `(mu * batch, resolution, resolution, 3)`, weak views of the same images.
        strong: float `(mu * batch, resolution, resolution, 3)`, strong views of the same images.
    """

    labeled: tf.Tensor
    identity: tf.Tensor
    weak: tf.Tensor
    strong: tf.Tensor


@keras.saving.register_keras_serializable(package="daso_tf")
class USADTM(Learner):
    """USADTM: three views share information, and strong views are taught the nearest template.

    A template is the mean feature of a class's labeled images. An image is taught the class whose
    template is nearest to its weak view, if cosine similarity and Euclidean distance agree on the
    class and the similarity reaches the threshold.

    Args:
        strong: Layer that makes strong views of weak ones, called as `strong(images, seed=...)`; by
            default `RandAugment()`, or, with `data` of a feature bank, its stored ones.
        queue_size: Labeled features that are kept per class, at least 1; or K numbers, one per
            class. The published runs keep 5 times the class's number of labeled images.
        pretrain_steps: Number of steps at the start, at least 0, in which no pseudo-label is
            taught.
        confidence_threshold: Least cosine similarity of the pseudo-labels that are taught, in
            [0, 1].
        mutual_information_weight: Weight of the mutual information loss, at least 0.

    Raises:
        ValueError: If an argument is outside its range, or a pseudo-labeler is given.

    Example:

    >>> encoder = daso_tf.encoders.wide_resnet(10, 1)
    >>> model = USADTM(encoder, 10, pretrain_steps=100, mean=(0.5,) * 3, std=(0.25,) * 3)
    >>> model.compile(keras.optimizers.SGD(0.03, momentum=0.9, nesterov=True))
    >>> labeled, unlabeled = np.zeros((4, 32, 32, 3), "uint8"), np.zeros((8, 32, 32, 3), "uint8")
    >>> logs = model.train_on_batch((labeled, unlabeled), np.zeros(4, "int32"), return_dict=True)
    >>> float(logs["consistency_loss"])
    0.0

    Reference:
        Han, Gao, Yuan and Wang, "Unsupervised Semantic Aggregation and Deformable Template Matching
        for Semi-Supervised Learning", NeurIPS 2020.
    """

    refuses: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "pseudo_labeler": "its pseudo-labels are the classes of the nearest templates",
            "threshold": "its confidence is the similarity to a template, which is no probability",
            "balanced_head": "its pseudo-labels are those of the templates, not of a classifier",
            "margins": NO_MARGINS,
        }
    )
    own_pseudo_labeler = TemplateMatchingPseudoLabeler

    def __init__(
        self,
        encoder: keras.Model,
        num_classes: int,
        *,
        strong: keras.layers.Layer | None = None,
        queue_size: int | Sequence[int] = 256,
        pretrain_steps: int = 500,
        confidence_threshold: float = 0.85,
        mutual_information_weight: float = 0.1,
        **kwargs: Any,
    ):
        confidence_threshold = checked_number(
            "confidence_threshold", confidence_threshold, least=0, most=1
        )
        mutual_information_weight = checked_number(
            "mutual_information_weight", mutual_information_weight, least=0
        )
        if (given := kwargs.pop("pseudo_labeler", None)) is not None:
            reason = self.refuses["pseudo_labeler"]
            if isinstance(given, str):
                raise ValueError(f"{given!r} does not go with {type(self).__name__}: {reason}.")
            raise ValueError(str(Conflict(type(given), type(self), reason)))
        super().__init__(
            encoder,
            num_classes,
            TemplateMatchingPseudoLabeler(queue_size, pretrain_steps),
            loss_names=("supervised_loss", "consistency_loss", "mutual_information_loss"),
            **kwargs,
        )
        self.confidence_threshold = confidence_threshold
        self.mutual_information_weight = mutual_information_weight
        self.strong = default_strong(kwargs.get("data")) if strong is None else strong
        self.strong.build((None, None, None, 3))

    def make_views(self, labeled: tf.Tensor, unlabeled: tf.Tensor, seed: tf.Tensor) -> USADTMViews:
        """Makes weak views of both sides, and strong views of the unlabeled side."""
        seeds = tf.random.experimental.stateless_split(seed, 4, alg="philox")
        before_strong = self.weak(unlabeled, seed=seeds[2])  # another draw than the weak views
        return USADTMViews(
            labeled=self.as_input(self.weak(labeled, seed=seeds[0])),
            identity=self.as_input(unlabeled),
            weak=self.as_input(self.weak(unlabeled, seed=seeds[1])),
            strong=self.as_input(self.strong(before_strong, seed=seeds[3])),
        )

    def compute_losses(
        self,
        views: USADTMViews,
        labels: tf.Tensor,
        positions: tf.Tensor | None = None,
        belongs: tf.Tensor | None = None,
    ) -> StepOutcome:
        """Computes the losses of one step."""
        labeler = self.pseudo_labeler
        step = tf.convert_to_tensor(self.step)
        labeled, identity, weak, strong = self.forward(*views)
        # The templates are means of features of the trained network, from the same joint batch.
        labeler.observe(tf.stop_gradient(labeled.features), labels)

        known = known_images.argument(belongs)
        pseudo_labels = labeler(
            tf.nn.softmax(weak.logits), weak.features, step=step, positions=positions, **known
        )
        # A confidence of 0 marks an image without a pseudo-label, also for a threshold of 0.
        confidence = pseudo_labels.confidence
        taught = (confidence > 0) & (confidence >= self.confidence_threshold)
        weights = known_images.taught(tf.cast(taught, tf.float32), belongs)
        consistency_loss = losses.consistency(pseudo_labels.final, weights, strong.logits)
        pairs = [(identity, weak), (identity, strong), (weak, strong)]
        information = [losses.mutual_information(a.logits, b.logits, belongs) for a, b in pairs]
        terms = {
            "supervised_loss": self.supervised_loss(labels, labeled.logits, step),
            "consistency_loss": self.weight_at(step) * consistency_loss,
            "mutual_information_loss": self.mutual_information_weight * tf.add_n(information) / 3,
        }
        return StepOutcome(terms, labeled.logits, pseudo_labels, weights)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this model."""
        return {
            **super().get_config(),
            "strong": keras.saving.serialize_keras_object(self.strong),
            "queue_size": self.pseudo_labeler.templates.queue_size,
            "pretrain_steps": self.pseudo_labeler.pretrain_steps,
            "confidence_threshold": self.confidence_threshold,
            "mutual_information_weight": self.mutual_information_weight,
        }
