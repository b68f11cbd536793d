"""From the flags to a compiled learner: adding a method is adding an entry here."""

import keras
import tensorflow as tf

from daso_tf import augment, encoders
from daso_tf.balance import LogitAdjustedLoss, SupervisedLoss
from daso_tf.data import SemiSupervisedData
from daso_tf.learners import FixMatch
from daso_tf.pseudo_labels import AlignedPseudoLabeler, DASOPseudoLabeler, LinearPseudoLabeler

LEARNERS = {"fixmatch": FixMatch}

PSEUDO_LABELERS = {
    "linear": lambda flags, data: LinearPseudoLabeler(),
    "daso": lambda flags, data: DASOPseudoLabeler(
        queue_size=flags.queue_size,
        prototype_temperature=flags.prototype_temperature,
        distribution_temperature=flags.distribution_temperature,
        distribution_aware=flags.distribution_aware,
        blend_weight=flags.blend_weight,
        alignment_weight=flags.alignment_weight,
        pretrain_steps=flags.pretrain_steps,
        distribution_period=flags.distribution_period,
    ),
    "distribution_alignment": lambda flags, data: AlignedPseudoLabeler(data.labeled_counts),
}


def supervised_loss(flags, data: SemiSupervisedData) -> SupervisedLoss:
    """Returns what the labeled images cost, as the flags say; arguments as `build_learner`."""
    if flags.logit_adjustment:
        return LogitAdjustedLoss(data.labeled_counts.tolist(), flags.logit_adjustment)
    return SupervisedLoss()


def build_learner(flags, data: SemiSupervisedData) -> keras.Model:
    """Makes the learner that the flags describe, compiled, ready for `fit`.

    Args:
        flags: an object with the settings of `daso_tf.flags` as attributes.
        data: what it will be trained on; gives classes, their counts and channel statistics.

    Returns:
        A compiled `daso_tf.learners` model.
    """
    encoder = encoders.build(
        flags.encoder, flags.resolution, data.mean, data.std, weights=flags.encoder_weights
    )
    learner = LEARNERS[flags.learner](
        encoder,
        data.num_classes,
        pseudo_labeler=PSEUDO_LABELERS[flags.pseudo_labeler](flags, data),
        weak=augment.Weak(horizontal_flip=flags.horizontal_flip),
        strong=augment.RandAugment(cutout=flags.cutout_size),
        resolution=flags.resolution,
        mean=data.mean,
        std=data.std,
        confidence_threshold=flags.confidence_threshold,
        unlabeled_weight=flags.unlabeled_weight,
        weight_decay=flags.weight_decay,
        ema_decay=flags.ema_decay,
        supervised_loss=supervised_loss(flags, data),
        class_names=data.class_names,
        seed=flags.seed,
    )
    # Measured on 2 CPU cores, WRN-10-1 on 16 x 16 pixels: 164 ms a step without XLA, 218 ms with.
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    jit_compile = {"auto": on_gpu, "true": True, "false": False}[flags.jit_compile]
    optimizer = keras.optimizers.SGD(flags.learning_rate, momentum=flags.momentum, nesterov=True)
    learner.compile(optimizer=optimizer, jit_compile=jit_compile)
    return learner
