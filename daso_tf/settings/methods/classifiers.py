"""How does a feature become logits?"""

from __future__ import annotations

from daso_tf.settings.flag import choice, number
from daso_tf.settings.methods.entry import Computed, Entry, one_of

CLASSIFIERS: dict[str, Entry | None] = {
    "linear": None,
    "cosine": Entry(
        "step.cosine_classifier.CosineClassifier",
        units=Computed(lambda c: c.num_classes),
        temperature=number(
            "cosine_temperature",
            0.05,
            "(0, inf)",
            "Initial temperature of --classifier=cosine, which is learned.",
        ),
    ),
}
CLASSIFIER = choice(
    "classifier",
    "linear",
    CLASSIFIERS,
    "The last layer, from features to logits: a linear one, or the cosine similarity to a "
    "direction of each class. One hidden layer below it is --adapter=mlp.",
)
CLASSIFIER_WEIGHTS = choice(
    "classifier_weights",
    "random",
    ["random", "probe"],
    "Initial weights of the classifier: random; or, with --freeze_encoder, those of logistic "
    "regression of the labeled images, with --classifier=cosine their class means.",
)
classifier = one_of(CLASSIFIER, CLASSIFIERS)
