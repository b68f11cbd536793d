"""What `test_contract.py` runs over: every registered class, and learners in which all take part.

Run as a program, it trains each case on two replicas and under XLA: `contract.py FOLDER`. The
replicas are logical devices of one CPU, which must be configured before TensorFlow starts.

A new class needs no entry here if its arguments are numbers, whose ranges are in its docstring, or
have names that others use, too. If not, add an example of each new argument to `EXAMPLES`.
"""

import functools
import inspect
import json
import math
import pkgutil
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from channels import STATISTICS

import daso_tf
from daso_tf import augment, balance, open_set, pseudo_labels, thresholds
from daso_tf.encoders.adapter import StandardizedFeatures, StepDropout
from daso_tf.encoders.applications import ApplicationsInput
from daso_tf.encoders.normalized_input import NormalizedInput
from daso_tf.encoders.precision import dtype_policy
from daso_tf.platform import strategies
from daso_tf.platform.keras_versions import KERAS_3, model_variables, optimizer_variables
from daso_tf.settings.optimizers import Cosine, WarmUp
from daso_tf.step import compatibility
from daso_tf.step.cosine_classifier import CosineClassifier
from daso_tf.step.metrics import OneHotLabels

K, SIZE, D = 3, 8, 5
COUNTS, UNLABELED = [8, 4, 2], 20
STEPS, BATCH, RATIO = 4, 4, 2


def registered():
    """Returns every class that the package has registered with Keras, by its name."""
    objects = keras.saving.get_custom_objects()
    classes = {name.removeprefix("daso_tf>"): objects[name] for name in sorted(objects)}
    return {n: c for n, c in classes.items() if c.__module__.startswith("daso_tf.")}


def registered_after_importing_all_modules():
    """Returns the same, once all modules are imported."""
    for module in pkgutil.walk_packages(daso_tf.__path__, "daso_tf."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    return registered()


def encoder(dropout=False):
    """Makes a small encoder with the package's own layers."""
    image = keras.Input((SIZE, SIZE, 3))
    x = NormalizedInput(EXAMPLES["mean"], EXAMPLES["std"])(image)
    x = ApplicationsInput("MobileNetV2", STATISTICS["mean"], STATISTICS["std"])(x)
    x = keras.layers.Dense(D, use_bias=False)(keras.layers.Flatten()(x))
    x = StandardizedFeatures()(x)
    if dropout:
        x = StepDropout(0.25)(x)
    return keras.Model(image, daso_tf.encoders.BatchNormalization(negative_slope=0.1)(x))


# An example of each argument, by its name or by class and name: in its range, not the default.
# Functions make a new object for every use. Other numbers are taken from the documented range.
EXAMPLES = {
    "aligned_counts": [3.0, 2.0, 1.0],
    "application": "MobileNetV2",
    "axis": 1,
    "balanced_head": lambda: balance.CoSSL(COUNTS, teach_after=2),
    "beta_constraint": "NonNeg",
    "beta_initializer": "ones",
    "beta_regularizer": "L2",
    "class_distribution": [3.0, 2.0, 1.0],
    "labeled_distribution": [3.0, 2.0, 1.0],
    "class_names": ("ant", "bee", "cicada"),
    "classifier": lambda: CosineClassifier(K, temperature=0.25),
    "Cosine.rate": 0.5,
    "confidence": 0.4,
    "confidence_threshold": 0.4,
    "decayed": "kernels",
    "distribution_alignment": lambda: pseudo_labels.DistributionAlignment(COUNTS, window=2),
    "encoder": encoder,
    "gamma_constraint": "NonNeg",
    "gamma_initializer": "zeros",
    "gamma_regularizer": "L2",
    "labeled_counts": COUNTS,
    "learning_rate": 0.5,
    "mean": (0.25, 0.5, 0.75),
    "metric": lambda: keras.metrics.CategoricalAccuracy("one_hot_accuracy"),
    "moving_mean_initializer": "ones",
    "moving_variance_initializer": "zeros",
    "name": "another_name",
    "num_classes": K,
    "num_images": UNLABELED,
    "num_ops": 0,
    "padding": 0.25,
    "pseudo_labeler": lambda: pseudo_labels.DASOPseudoLabeler(4, pretrain_steps=2),
    "rate": lambda: keras.optimizers.schedules.PiecewiseConstantDecay([2], [0.05, 0.01]),
    "ratio": (0.5, 2.0),
    "resolution": SIZE,
    "StepDropout.rate": 0.25,
    "RandomResizedCrop.scale": (0.25, 0.75),
    "size": SIZE,
    "std": (0.5, 0.25, 0.125),
    "strong": lambda: augment.RandAugment(num_ops=0, cutout=2),
    "supervised_loss": lambda: balance.LDAMLoss(COUNTS, reweight_after=2),
    "target_distribution": [3.0, 2.0, 1.0],
    "units": K,
    "threshold": lambda: thresholds.FreeMatchThreshold(momentum=0.5),
    "weak": lambda: augment.Weak(padding=0.25),
    "weight_decay": 1e-3,
}
# Arguments without an example: `dtype` is of Keras in every layer; the targets of a teacher are a
# weight; a frozen encoder needs another kind of encoder, as in `test_feature_bank.py`; an open set
# does not go with every part, so only cases have one.
NO_EXAMPLE = {"dtype", "targets", "frozen_encoder", "open_set"}


# Learners make parts by name of these, and save the parts; `test_keras_habits.py` tests them.
NOT_SAVED = {"data": "weak", "total_steps": "weak"}


def constructor_arguments(cls):
    """Returns the arguments that a class shows and saves, by name."""
    found = inspect.signature(cls).parameters
    named = [p for p in found.values() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    return {p.name: p for p in named if NOT_SAVED.get(p.name) not in found}


def documented_arguments(docstring):
    """Returns what a docstring says of each argument, by name."""
    section = re.search(
        r"^Args:\n((?:    .*\n?|\n)+)", inspect.cleandoc(docstring or ""), re.MULTILINE
    )
    if not section:
        return {}
    entries = re.split(r"^    (?=\S)", section[1], flags=re.MULTILINE)[1:]
    pairs = (entry.partition(":")[::2] for entry in entries)
    return {name: " ".join(text.split()) for name, text in pairs}


_INTERVAL = re.compile(r"\b[Ii]n\s+([\[(])([\d.]+),\s+([\d.]+)([\])])")
_LEAST = re.compile(r"\b([Aa]t least|[Aa]bove)\s+([\d.]*\d)")


def documented_range(cls, name):
    """Returns `(lower, lower is allowed, upper, upper is allowed)` as the docstring has it."""
    text = documented_arguments(cls.__doc__)[name]
    if found := _INTERVAL.search(text):
        return float(found[2]), found[1] == "[", float(found[3]), found[4] == "]"
    found = _LEAST.search(text)
    assert found, (
        f"the docstring of {cls.__name__} does not say the range of {name}: write 'at least 1', "
        "'above 0' or 'in [0, 1)'"
    )
    return float(found[2]), found[1].lower() == "at least", math.inf, False


def is_number(parameter):
    """Returns whether an argument accepts a number, alone or among other types."""
    return bool({"int", "float"} & set(re.split(r"\W+\|\W+", str(parameter.annotation))))


def is_whole(parameter):
    return "int" in str(parameter.annotation)


def number_in_range(cls, name):
    """Returns a number in the documented range that is not the default, near its lower end.

    Numbers of steps are then so few that four steps see what comes before and after them.
    """
    parameter = constructor_arguments(cls)[name]
    low, _, high, _ = documented_range(cls, name)
    if is_whole(parameter):
        candidates = int(low) + 1, int(low) + 2
    else:
        width = min(high - low, 1.0)
        candidates = low + width / 2, low + width / 4
    return next(value for value in candidates if value != parameter.default)


def examples(cls, names=None):
    """Returns an example of each argument of a class, or of some of them.

    Raises:
        AssertionError: If there is none of an argument.
    """
    found = {}
    parameters = constructor_arguments(cls)
    for name in sorted(set(parameters if names is None else names) - NO_EXAMPLE):
        keys = [key for key in (f"{cls.__name__}.{name}", name) if key in EXAMPLES]
        if keys:
            value = EXAMPLES[keys[0]]
            found[name] = value() if inspect.isfunction(value) else value
        elif is_number(parameters[name]):
            found[name] = number_in_range(cls, name)
        else:
            assert isinstance(parameters[name].default, bool), (
                f"{cls.__name__} has an argument {name} of which the contract test has no example: "
                "add one to EXAMPLES in tests/contract.py, in its range and not the default."
            )
            found[name] = not parameters[name].default
    if issubclass(cls, daso_tf.DASO):  # it takes a pseudo-labeler or the arguments of one
        found.pop("pseudo_labeler", None)
    return found


class Case(NamedTuple):
    """A learner to train.

    Attributes:
        learner: Its class.
        parts: Pairs of an argument of the learner and the class of the part that it gets.
    """

    learner: type
    parts: tuple[tuple[str, type], ...]

    def __str__(self) -> str:
        return "+".join([self.learner.__name__, *(part.__name__ for _, part in self.parts)])

    @property
    def reason_against_xla(self) -> str | None:
        """Why XLA cannot compile its step; None if it can."""
        labeler = dict(self.parts).get("pseudo_labeler")
        return labeler and labeler.refuses.get("xla")


def _argument_for(part):
    """Returns the argument of a learner that takes a part; None if learners do not take it."""
    for base, argument in (
        (pseudo_labels.PseudoLabeler, "pseudo_labeler"),
        (thresholds.Threshold, "threshold"),
        (balance.BalancedHead, "balanced_head"),
        (open_set.OpenSet, "open_set"),
        (balance.SupervisedLoss, "supervised_loss"),
        (pseudo_labels.DistributionAlignment, "distribution_alignment"),
        (CosineClassifier, "classifier"),
    ):
        if issubclass(part, base):
            return argument
    return "weak" if part.__module__.startswith("daso_tf.augment.") else None


def _takes(learner, part):
    """Returns whether a learner can get a part."""
    argument = _argument_for(part)
    if issubclass(learner, daso_tf.DASO) and argument == "pseudo_labeler":
        return False  # it makes its own, of its arguments
    return argument in constructor_arguments(learner)


def _goes_with(learner, part):
    """Returns whether a learner can get a part as the only one."""
    parts = {_argument_for(part): part}
    return _takes(learner, part) and not any(compatibility.conflicts(learner, parts))


@functools.cache
def cases():
    """Returns cases in which every learner and every part occurs."""
    classes = list(registered().values())
    waiting = [part for part in classes if _argument_for(part)]
    # What XLA cannot compile has a case of its own, without other parts.
    alone = [part for part in waiting if "xla" in getattr(part, "refuses", ())]
    found = [Case(daso_tf.PseudoLabel, ((_argument_for(part), part),)) for part in alone]
    waiting = [part for part in waiting if part not in alone]
    learners = [cls for cls in classes if issubclass(cls, daso_tf.Learner)]
    # The simplest learners come first and get the parts that make views, the slowest to compile.
    learners.sort(key=lambda cls: len(constructor_arguments(cls)))
    while learners or waiting:
        if learners:
            learner = learners.pop(0)
        else:  # PseudoLabel has the cheapest step, FixMatch takes almost every part
            candidates = (daso_tf.PseudoLabel, daso_tf.FixMatch, daso_tf.ReMixMatch)
            fitting = [c for c in candidates if any(_goes_with(c, part) for part in waiting)]
            assert fitting, f"no learner takes {waiting}"
            learner = fitting[0]
        parts = {}
        for part in list(waiting):
            argument = _argument_for(part)
            together = {**parts, argument: part}
            if issubclass(learner, daso_tf.DASO):
                together["pseudo_labeler"] = pseudo_labels.DASOPseudoLabeler
            free = argument not in parts and _takes(learner, part)
            if free and not any(compatibility.conflicts(learner, together)):
                parts[argument] = part
                waiting.remove(part)
        found.append(Case(learner, tuple(parts.items())))
    return found


def compiled_cases():
    """Returns the cases that XLA compiles here; with Keras 2, `test_learners_training.py` does."""
    return [case for case in cases() if KERAS_3 and not case.reason_against_xla]


def learner_of(case, policy=None, **compile_arguments):
    """Makes the compiled learner of a case, with the same initial weights every time."""
    keras.utils.set_random_seed(0)
    not_given = {"microbatches", *map(_argument_for, registered().values())} - {"weak"}
    with dtype_policy(policy):
        arguments = examples(case.learner, constructor_arguments(case.learner).keys() - not_given)
        if case.learner is daso_tf.Supervised:  # its one view has the same rows on every replica
            arguments["encoder"] = encoder(dropout=True)
    for name, part in case.parts:
        arguments[name] = part(**examples(part))
        if "balance" in getattr(part, "refuses", ()):
            arguments.pop("test_logit_adjustment", None)
    learner = case.learner(**arguments)
    optimizer = daso_tf.optimizers.SGD(WarmUp(0.05, steps=2), momentum=0.9, nesterov=True)
    if case.learner is daso_tf.Supervised:  # with this epsilon, small gradients move little
        optimizer = daso_tf.optimizers.Adam(Cosine(0.05, steps=STEPS), epsilon=0.1)
    learner.compile(
        optimizer,
        metrics=[OneHotLabels(**examples(OneHotLabels, {"metric"}))],
        **{"jit_compile": False, **compile_arguments},
    )
    if learner.open_set is not None:  # about half of the images are of no class
        rng = np.random.default_rng(0)
        features = rng.normal(size=(K * UNLABELED, learner.num_features))
        learner.open_set.learn(features, np.arange(len(features)) % K, features)
        learner.open_set.set_limit(np.array(learner.unknown_scores(batch(9)[0][1])))
    return learner


def batch(step):
    """Makes a batch of raw images, with positions and the true classes of unlabeled images."""
    rng = np.random.default_rng(step)
    images = rng.integers(0, 256, (BATCH * (1 + RATIO), SIZE, SIZE, 3), np.uint8)
    labels = rng.integers(0, K, BATCH * (1 + RATIO)).astype(np.int32)
    positions = rng.permutation(UNLABELED)[: BATCH * RATIO]
    inputs = images[:BATCH], images[BATCH:], positions
    return tf.nest.map_structure(tf.constant, (inputs, (labels[:BATCH], labels[BATCH:])))


def batches():
    """Makes a data set of `STEPS` batches."""
    made = [batch(step) for step in range(STEPS)]
    shapes = tf.nest.map_structure(tf.TensorSpec.from_tensor, made[0])
    return tf.data.Dataset.from_generator(lambda: iter(made), output_signature=shapes)


def config_of(thing):
    """Returns the config of a learner or a part, as JSON has it.

    It lacks the shapes with which layers were built, which Keras 2 notes until they are loaded.
    """

    def cleaned(value):
        if isinstance(value, dict):
            return {k: cleaned(v) for k, v in value.items() if k != "build_config"}
        return [cleaned(part) for part in value] if isinstance(value, list) else value

    return cleaned(as_json(thing.get_config()))


def as_json(value):
    """Returns a value as JSON has it; configs of Keras 2 optimizers contain NumPy numbers."""
    return json.loads(json.dumps(value, default=lambda number: number.item()))


def train(learner, steps):
    """Trains steps, not compiled."""
    for step in steps:
        learner.train_step(batch(step))


def state(learner):
    """Returns the value of every variable of a learner and its optimizer."""
    return [
        np.array(v) for v in (*model_variables(learner), *optimizer_variables(learner.optimizer))
    ]


def difference(ours, theirs):
    """Returns the largest difference of two states, relative to the largest value of a variable."""
    worst = 0.0
    for one, other in zip(ours, theirs, strict=True):
        one, other = (np.asarray(value, np.float64) for value in (one, other))
        assert one.shape == other.shape
        if one.size:
            worst = max(worst, np.abs(one - other).max() / (np.abs(one).max() or 1.0))
    return worst


def train_on_replicas(case, strategy):
    """Trains a case on two replicas; returns the learner."""

    def distributed(rows):
        half = len(rows) // 2
        return strategy.experimental_distribute_values_from_function(
            lambda context: rows[half * context.replica_id_in_sync_group :][:half]
        )

    with strategy.scope():
        learner = learner_of(case)
    step = tf.function(lambda data: strategy.run(learner.train_step, args=(data,)), autograph=False)
    for number in range(STEPS):
        step(tf.nest.map_structure(distributed, batch(number)))
    return learner


def train_under_xla(case):
    """Trains a case under XLA; returns the learner."""
    learner = learner_of(case)
    step = tf.function(learner.train_step, jit_compile=True, autograph=False)
    program = step.experimental_get_compiler_ir(batch(0))
    before = program(stage="hlo")
    for number in range(STEPS):
        step(batch(number))
    # If a shape depended on the value of a variable, XLA would compile every step.
    assert program(stage="hlo") == before, "the program of the step has changed"
    return learner


def main(folder):
    """Writes the state of each learner as `replicas/CASE.npz` and `xla/CASE.npz`.

    Writes `CASE.txt` with the error where there is one, and which classes `import daso_tf` has
    registered as `registered.json`.
    """
    (folder / "registered.json").write_text(json.dumps(list(registered())))
    cpu = tf.config.list_physical_devices("CPU")[0]
    device = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(cpu, [device, device])
    strategy = strategies.make("mirrored")
    assert strategy.num_replicas_in_sync == 2

    for name, trained, chosen in (
        ("replicas", functools.partial(train_on_replicas, strategy=strategy), cases()),
        ("xla", train_under_xla, compiled_cases()),
    ):
        (folder / name).mkdir()
        for case in chosen:
            try:
                np.savez(folder / name / f"{case}.npz", *state(trained(case)))
            except Exception as error:  # reported for this case; the others must run
                (folder / name / f"{case}.txt").write_text(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
