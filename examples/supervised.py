"""Supervised learning on long-tailed digits: `python examples/supervised.py [STEPS]`."""

import sys

import keras

import daso_tf

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 600
keras.utils.set_random_seed(0)  # of the initial weights

# Labeled images: 30 of the digit 0 down to 3 of the digit 9. Unlabeled images: 100 down to 10.
data = daso_tf.data.load(
    "digits",
    labeled_head=30,
    labeled_imbalance=10,
    unlabeled_head=100,
    unlabeled_imbalance=10,
    source_size=16,
    resolution=16,
)
batches = daso_tf.data.training_batches(data, batch_size=32, unlabeled_ratio=2, seed=0)

learner = daso_tf.Supervised(
    daso_tf.encoders.wide_resnet(depth=10, width=1, input_shape=(16, 16, 3)),
    data.num_classes,
    weak=daso_tf.augment.Weak(horizontal_flip=False),
    mean=data.mean,
    std=data.std,
    ema_decay=0.99,
)
learner.compile(daso_tf.optimizers.SGD(0.03, momentum=0.9, nesterov=True), jit_compile=False)
learner.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=2)
scores = learner.evaluate(daso_tf.data.evaluation_batches(data.test, 120), return_dict=True)
print(f"balanced accuracy {scores['balanced_accuracy']:.3f}")
