"""A second, balanced classifier on the same features, and what it needs of a step."""

from __future__ import annotations

import keras
import tensorflow as tf

from daso_tf.balance import BalancedHead
from daso_tf.balance.balanced_head import AveragedFeatures, Features, HeadStep
from daso_tf.platform import draws
from daso_tf.pseudo_labels import PseudoLabeler
from daso_tf.step.classifier import Classifier
from daso_tf.step.feature_memory import FeatureMemory
from daso_tf.step.outcome import Outputs


class BalancedClassifier(Classifier):
    """A classifier to which a `BalancedHead` such as ABC or CoSSL can be added.

    Without one, every function here does what a classifier without a second head needs. So a
    learner's losses read the same with and without it.

    Args:
        *args: As for `Classifier`.
        **kwargs: As for `Classifier`.
    """

    # Not "= None" here: Keras 2 does not track what is assigned to an attribute of the class.
    balanced_head: BalancedHead | None
    pseudo_labeler: PseudoLabeler  # of the learner

    def draw_seed(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the seed of the draws of a balanced head, another one for each microbatch.

        Args:
            step: int scalar, the number of steps done before this one.

        Returns:
            int32 `(2,)`.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `draw_seed`.")

    def add_balanced_head(self, head: BalancedHead | None) -> None:
        """Makes the balanced classifier, its average and its memory; nothing if there is no head.

        Args:
            head: What makes its loss.
        """
        self.balanced_head = head
        if head is None:
            return
        if isinstance(head, keras.layers.Layer) and not head.built:
            head.build((None, self.num_classes))
        self.balanced_classifier, self.ema_balanced_classifier = self.add_head(
            "balanced_classifier", self.num_classes
        )
        if self.needs_averaged_features:
            self.balanced_memory = FeatureMemory(head.labeled_counts, name="balanced_memory")
            self.balanced_memory.build([(None, self.num_classes), (None, self.num_features)])

    @property
    def needs_averaged_features(self) -> bool:
        """Whether there is a head that learns from features of the averaged encoder."""
        head = self.balanced_head
        return head is not None and "averaged_features" in head.asks_for

    # What a learner's `compute_losses` uses ---------------------------------------------------

    def averaged_features(
        self,
        weak: tf.Tensor,
        strong: tf.Tensor,
        strong_labeled: tf.Tensor,
        labels: tf.Tensor,
        step: tf.Tensor,
    ) -> AveragedFeatures | None:
        """Computes what a balanced head asks of the averaged encoder, and remembers it by class.

        Args:
            weak: float `(mu * batch, resolution, resolution, 3)`, weak views of unlabeled images.
            strong: float `(mu * batch, resolution, resolution, 3)`, strong views of these images.
            strong_labeled: float `(batch, resolution, resolution, 3)`, strong views of the labeled
                images.
            labels: int `(batch,)`, classes in 0..K-1 of the labeled images.
            step: int scalar, the number of steps done before this one.

        Returns:
            The features; None if there is no head that asks for them.
        """
        head = self.balanced_head
        if head is None or not self.needs_averaged_features:
            return None
        images = tf.concat([strong_labeled, weak, strong], axis=0)
        learns = head.learns_at(step)
        features = tf.cond(
            learns,
            lambda: self.network.ema_features(images, training=False),
            lambda: tf.zeros((tf.shape(images)[0], self.num_features)),
        )
        features = tf.stop_gradient(features)
        sizes = [tf.shape(views)[0] for views in (strong_labeled, weak, strong)]
        of_labeled, of_weak, of_strong = tf.split(features, sizes)

        memory = self.balanced_memory
        memory.push(of_labeled, labels)
        memory.keep_if(learns)
        return AveragedFeatures(
            labeled=of_labeled,
            weak=of_weak,
            strong=of_strong,
            remembered=tf.convert_to_tensor(memory.features),
            counts=memory.counts(),
            draws=draws.uniform(self.draw_seed(step), draws.BALANCED_CHOICE, sizes[0], draws=3),
        )

    def teaching_logits(
        self, weak: Outputs, step: tf.Tensor, averaged: AveragedFeatures | None = None
    ) -> tf.Tensor:
        """Returns the logits of the weak views from which pseudo-labels are made.

        Args:
            weak: The `Outputs` of the weak views of the unlabeled images.
            step: int scalar, the number of steps done before this one.
            averaged: The result of `averaged_features`.

        Returns:
            float32 `(mu * batch, K)`: the classifier's, or those of a balanced head that teaches.
        """
        if self.balanced_head is None:
            return weak.logits
        features = weak.features if averaged is None else averaged.weak
        return self.balanced_head.teaching_logits(
            self.balanced_classifier, features, weak.logits, step
        )

    def balanced_losses(
        self,
        features: Features,
        labels: tf.Tensor,
        step: tf.Tensor,
        averaged: AveragedFeatures | None = None,
        weak_logits: tf.Tensor | None = None,
        positions: tf.Tensor | None = None,
        second_strong: tf.Tensor | None = None,
        belongs: tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        """Computes the losses of the balanced head.

        Args:
            features: The features of the step's views, which carry the gradient.
            labels: int `(batch,)`, classes in 0..K-1 of the labeled images.
            step: int scalar, the number of steps done before this one.
            averaged: The result of `averaged_features`.
            weak_logits: float `(mu * batch, K)` of the weak views, by the first classifier.
            positions: As for `Learner.compute_losses`.
            second_strong: As for `HeadStep`.
            belongs: As for `HeadStep`.

        Returns:
            Scalars by their names; nothing where there is no balanced head.
        """
        head = self.balanced_head
        if head is None:
            return {}
        return head.step_losses(
            HeadStep(
                self.balanced_classifier,
                lambda probabilities: self.pseudo_labeler(probabilities, features.weak, step=step),
                features,
                labels,
                self.balanced_draws(
                    tf.shape(features.labeled)[0], tf.shape(features.weak)[0], step
                ),
                step,
                averaged,
                weak_logits,
                positions,
                second_strong,
                belongs,
            )
        )

    def balanced_draws(
        self, labeled: tf.Tensor, unlabeled: tf.Tensor, step: tf.Tensor
    ) -> tf.Tensor:
        """Draws the random numbers of the balanced head.

        Args:
            labeled: int scalar, the number of labeled images.
            unlabeled: int scalar, the number of unlabeled images.
            step: int scalar, the number of steps done before this one.

        Returns:
            float32 `(labeled + unlabeled,)`, uniform in [0, 1).
        """
        seed = self.draw_seed(step)
        uniform = [
            draws.uniform(seed, stream, count, draws=1)[:, 0]
            for stream, count in (
                (draws.BALANCED_LABELED, labeled),
                (draws.BALANCED_UNLABELED, unlabeled),
            )
        ]
        return tf.concat(uniform, axis=0)

    # What makes the predictions ---------------------------------------------------------------

    @property
    def answering_classifier(self) -> keras.layers.Layer:
        """The average of the balanced head where there is one, else of the classifier."""
        return self.ema_classifier if self.balanced_head is None else self.ema_balanced_classifier

    def answering_logits(self, features: tf.Tensor) -> tf.Tensor:
        """Computes the logits of the predictions; see `Classifier.answering_logits`."""
        logits = super().answering_logits(features)
        if self.balanced_head is None:
            return logits
        answers = self.balanced_head.answers_at(tf.convert_to_tensor(self.step))
        return tf.where(answers, logits, tf.cast(self.ema_classifier(features), tf.float32))
