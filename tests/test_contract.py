"""What every registered class, every learner and every public name of the package keeps to.

Nothing is listed by hand: the classes are those that Keras can load after `import daso_tf`, and the
learners and parts are combined until each has occurred (`contract.cases`). The examples of the
docstrings are run by `test_docstrings.py`; here it is checked that there is one.
"""

import ast
import doctest
import functools
import inspect
import json
import math
import re
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import contract
import keras
import numpy as np
import pytest
import tensorflow as tf
from contract import STEPS, as_json, constructor_arguments, examples, learner_of, state, train
from processes import FAST_XLA

import daso_tf
from daso_tf.platform.keras_versions import KERAS_3, model_variables
from daso_tf.settings import flags, methods
from daso_tf.settings.flag import Flag

CLASSES = contract.registered()
LEARNERS = {n: c for n, c in CLASSES.items() if issubclass(c, daso_tf.Learner)}
CASES = contract.cases()
TESTS = Path(__file__).parent
# The largest difference (`contract.difference`) of two programs that compute the same steps. Each
# sums in another order. Measured: 2e-5 (several steps per execution, MixMatch, Keras 2.15) and
# 1.2e-5 (two replicas, LDAM, whose logits are multiplied by 30). Other steps change far more.
ROUNDING = 1e-4

every_class = pytest.mark.parametrize("cls", CLASSES.values(), ids=list(CLASSES))
every_learner = pytest.mark.parametrize("cls", LEARNERS.values(), ids=list(LEARNERS))
every_case = pytest.mark.parametrize("case", CASES, ids=str)

# Learners whose steps depend on the number of replicas, which docs/many_devices.md states.
DEPENDS_ON_REPLICAS = {
    daso_tf.MixMatch: "it mixes images within a replica",
    daso_tf.ReMixMatch: "it mixes images within a replica",
}


@pytest.fixture(scope="module", autouse=True)
def other_process(tmp_path_factory):
    """Trains all cases on two replicas and under XLA, while the other tests run."""
    folder = tmp_path_factory.mktemp("other_process")
    command = [sys.executable, contract.__file__, folder]
    with subprocess.Popen(command, cwd=TESTS.parent, env=FAST_XLA) as process:

        def finished():
            assert process.wait() == 0
            return folder

        yield finished
        process.kill()


def state_in(folder, case):
    """Returns the state of a case that the other process has written."""
    error = folder / f"{case}.txt"
    assert not error.exists(), error.read_text()
    with np.load(folder / f"{case}.npz") as saved:
        return list(saved.values())


@functools.cache
def trained(case):
    """The learner of a case after all steps, not compiled, and its predictions. Do not change."""
    learner = learner_of(case)
    train(learner, range(STEPS))
    return learner, np.array(learner(contract.batch(9)[0][1]))


# What is saved ----------------------------------------------------------------------------------


def parts_of(thing, seen):
    """Adds the classes of an object and of everything in its attributes to `seen`."""
    if id(thing) in seen or isinstance(thing, (types.FunctionType, type)):
        return
    if isinstance(thing, (list, tuple, dict)):
        for part in thing.values() if isinstance(thing, dict) else thing:
            parts_of(part, seen)
    elif type(thing).__module__.startswith(("daso_tf.", "keras.")) and hasattr(thing, "__dict__"):
        seen[id(thing)] = thing
        for part in list(vars(thing).values()):
            parts_of(part, seen)


def test_every_class_takes_part_in_a_case():
    seen = {}
    for case in CASES:
        parts_of(trained(case)[0], seen)
    missing = {*CLASSES} - {type(thing).__name__ for thing in seen.values()}
    assert not missing, (
        f"no learner of the contract test contains {missing}: say in `_argument_for` of "
        "tests/contract.py which argument of a learner takes it, or put it into `encoder` there"
    )


@every_class
def test_examples_are_not_the_defaults(cls):
    for name, value in examples(cls).items():
        default = constructor_arguments(cls)[name].default
        assert default is inspect.Parameter.empty or value != default, name


@every_class
def test_config_makes_the_same_object_again(cls):
    given = examples(cls)
    serialize = keras.saving.serialize_keras_object
    original = cls(**given)
    config = contract.config_of(original)
    again = keras.saving.deserialize_keras_object(as_json(serialize(original)))
    assert type(again) is cls
    assert contract.config_of(again) == config
    assert contract.config_of(cls.from_config(original.get_config())) == config

    of_labeler = (config.get("pseudo_labeler") or {}).get("config", {})  # DASO takes its arguments
    for name, value in given.items():
        saved = {**of_labeler, **config}[name]
        if isinstance(saved, dict):
            expected = value if isinstance(value, str) else type(value).__name__
            assert saved["class_name"].lower() == expected.lower(), name
        else:
            assert saved == as_json(value), name


@every_case
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_saved_learner_continues_identically(case, tmp_path):
    learner, images = learner_of(case), contract.batch(9)[0][1]
    for step in range(0, STEPS, 2):
        learner.save(tmp_path / "learner.keras")
        loaded = keras.saving.load_model(tmp_path / "learner.keras")
        assert contract.config_of(loaded) == contract.config_of(learner)
        for ours, theirs in zip(state(loaded), state(learner), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(loaded(images), learner(images))
        learner = loaded
        train(learner, (step, step + 1))
    uninterrupted, predictions = trained(case)
    for ours, theirs in zip(state(learner), state(uninterrupted), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(learner(images), predictions)


@every_case
def test_every_variable_of_a_part_is_one_of_the_learner(case):
    """Otherwise it is in no checkpoint: Keras 2 does not track every attribute."""
    learner = trained(case)[0]
    known = {id(variable) for variable in model_variables(learner)}
    for name in ("pseudo_labeler", "threshold", "balanced_head", "open_set", "supervised_loss"):
        part = getattr(learner, name, None)
        if isinstance(part, keras.layers.Layer):
            assert {id(variable) for variable in part.variables} <= known, name


# How a step is computed --------------------------------------------------------------------------


def fit(case, **compile_arguments):
    learner = learner_of(case, **compile_arguments)
    learner.fit(contract.batches(), steps_per_epoch=STEPS, shuffle=False, verbose=0)
    return state(learner)


@every_case
@pytest.mark.skipif(not KERAS_3, reason="with Keras 2, test_compiled_step.py has one learner")
def test_several_steps_per_execution_are_the_same_steps(case):
    together = fit(case, steps_per_execution=2)
    assert contract.difference(state(trained(case)[0]), together) < ROUNDING


@every_case
@pytest.mark.parametrize("policy", ["mixed_float16", *["mixed_bfloat16"] * KERAS_3])
def test_mixed_precision_is_finite_and_keeps_float32(case, policy):
    learner = learner_of(case, policy)
    assert isinstance(learner.optimizer, keras.mixed_precision.LossScaleOptimizer) == (
        policy == "mixed_float16"
    )
    train(learner, range(2))
    for variable in (*learner.weights, *learner.optimizer.variables):
        dtype = tf.as_dtype(variable.dtype)
        assert dtype == tf.float32 or dtype.is_integer, variable.name
    assert all(np.isfinite(value).all() for value in state(learner))
    assert learner(contract.batch(9)[0][1]).dtype == tf.float32


# Arguments --------------------------------------------------------------------------------------

# Values outside the range of arguments that are not one number.
OUT_OF_RANGE = {
    "padding": [-0.5, 1.0, -1, math.nan],
    "aligned_counts": [[-1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0], [1.0, math.nan, 1.0]],
    "application": ["NoSuchNetwork"],
    "class_distribution": [[-1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0], [1.0, math.nan, 1.0]],
    "class_names": [["ant", "bee"]],
    "decayed": ["biases"],
    "labeled_counts": [[3, 2, 0], [3, 2, 1.5], [3], [3, math.nan, 1]],
    "labeled_distribution": [[-1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0], [1.0, math.nan, 1.0]],
    "mean": [(0.5, 0.5), (0.5, 0.5, 1.5), (-0.5, 0.5, 0.5), (0.5, math.nan, 0.5)],
    "ratio": [(2.0, 0.5), (0.0, 1.0), (0.5, math.inf), (1.0,)],
    "RandomResizedCrop.scale": [(0.5, 0.25), (0.0, 1.0), (0.5, 1.5), (0.5,)],
    "std": [(0.5, 0.5), (0.5, 0.5, 1.5), (0.0, 0.5, 0.5), (0.5, math.nan, 0.5)],
    "target_distribution": [[-1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0], [1.0, math.nan, 1.0]],
}
NOT_CHECKED = {
    "axis": "it must be the last axis of the inputs, which are not known yet",
    "encoder": "its features are checked",
}


def numbers_outside(cls, name):
    parameter = constructor_arguments(cls)[name]
    low, low_allowed, high, high_allowed = contract.documented_range(cls, name)
    step = 1 if contract.is_whole(parameter) else 0.5
    kind = int if contract.is_whole(parameter) else float
    values = [kind(low - step), *([] if low_allowed else [kind(low)]), math.nan, math.inf]
    if high < math.inf:
        values += [high + step, *([] if high_allowed else [high])]
    return [*values, low + 0.5] if contract.is_whole(parameter) else values


@functools.cache
def encoder():
    return contract.encoder()


def arguments_of(cls, **changed):
    """Returns arguments that a class accepts, with as few parts as possible, and others."""
    parameters = constructor_arguments(cls)
    of_keras = {"encoder", "application", "mean", "std", "name"}
    required = {n for n, p in parameters.items() if p.default is inspect.Parameter.empty}
    needed = (required | of_keras) & parameters.keys()
    if changed.keys() & {"unlabeled_weight", "ramp_steps"}:
        needed |= {"pseudo_labeler"} & parameters.keys()
    arguments = examples(cls, needed - {"encoder"})
    if "encoder" in parameters:
        arguments["encoder"] = encoder()
    if "test_logit_adjustment" in changed:
        arguments["labeled_counts"] = contract.COUNTS
    return arguments | changed


def checked_arguments():
    for cls in CLASSES.values():
        for name, parameter in constructor_arguments(cls).items():
            sequence = str(parameter.annotation).startswith("Sequence")
            if (contract.is_number(parameter) or sequence or name in OUT_OF_RANGE) and (
                name not in NOT_CHECKED
            ):
                yield pytest.param(cls, name, id=f"{cls.__name__}-{name}")


@pytest.mark.parametrize(("cls", "name"), checked_arguments())
def test_an_argument_outside_its_range_is_named_with_its_value(cls, name):
    keys = [key for key in (f"{cls.__name__}.{name}", name) if key in OUT_OF_RANGE]
    assert keys or contract.is_number(constructor_arguments(cls)[name]), (
        f"add values outside the range of {name} to OUT_OF_RANGE in tests/test_contract.py"
    )
    for value in OUT_OF_RANGE[keys[0]] if keys else numbers_outside(cls, name):
        with pytest.raises(ValueError) as caught:
            cls(**arguments_of(cls, **{name: value}))
            pytest.fail(f"{name}={value} is accepted")
        message = str(caught.value)
        assert name in message
        if name == "class_names":
            value = len(value)  # there may be hundreds
        for part in [value] if isinstance(value, (int, float, str)) else value:
            texts = [str(part)] if isinstance(part, str) else [str(part), str(float(part))]
            assert any(text in message for text in texts), f"{part} is not in: {message}"


@every_class
def test_the_ends_of_the_ranges_are_allowed(cls):
    parameters = constructor_arguments(cls)
    ends = [{}, {}]
    for name, parameter in parameters.items():
        if contract.is_number(parameter) and name not in NOT_CHECKED and name not in OUT_OF_RANGE:
            low, low_allowed, high, high_allowed = contract.documented_range(cls, name)
            if low_allowed:
                ends[0][name] = int(low) if contract.is_whole(parameter) else low
            if high_allowed:
                ends[1][name] = high
    for arguments in ends:
        for name in ("num_classes", "resolution"):  # those of the encoder and of other examples
            arguments.pop(name, None)
        cls(**arguments_of(cls, **arguments))


@every_learner
def test_a_learner_shows_its_arguments(cls):
    parameters = inspect.signature(cls).parameters
    assert {p.kind for p in parameters.values()} <= {
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.KEYWORD_ONLY,
    }
    assert {"encoder", "num_classes", "weight_decay", "ema_decay", "mean", "std"} <= {*parameters}
    for name in {"threshold", "balanced_head", "pseudo_labeler"} & {*cls.refuses}:
        assert name not in parameters
        part = examples(daso_tf.FixMatch, {name})[name]
        with pytest.raises(ValueError, match=re.escape(cls.refuses[name])):
            cls(**arguments_of(cls, **{name: part}))
    makes_labels = "pseudo_labeler" in parameters or cls.own_pseudo_labeler is not None
    assert ("unlabeled_weight" in parameters) == ("ramp_steps" in parameters) == makes_labels


def test_daso_shows_the_arguments_of_its_pseudo_labeler():
    ours, theirs = map(
        constructor_arguments, (daso_tf.DASO, daso_tf.pseudo_labels.DASOPseudoLabeler)
    )
    assert "queue_size" in theirs
    for name in theirs.keys() - contract.NO_EXAMPLE:
        assert ours[name].default == theirs[name].default


# Documentation ----------------------------------------------------------------------------------


def public_names():
    """Yields the classes and functions of the public modules, by their dotted names."""
    modules = [getattr(daso_tf, name) for name in daso_tf.__all__]
    for module in [daso_tf, *(m for m in modules if isinstance(m, types.ModuleType))]:
        own = [
            n
            for n, value in vars(module).items()
            if getattr(value, "__module__", "") == module.__name__
        ]
        for name in getattr(module, "__all__", own):
            value = getattr(module, name)
            if not name.startswith("_") and isinstance(value, (type, types.FunctionType)):
                yield f"{module.__name__}.{name}", value


# A thing with several names counts once.
_NAME_OF = {value: name for name, value in [*public_names(), *CLASSES.items()]}
PUBLIC = {name: value for value, name in _NAME_OF.items()}
every_public_name = pytest.mark.parametrize("value", PUBLIC.values(), ids=list(PUBLIC))


def sections(docstring):
    return set(re.findall(r"^(\w[\w ]*):$", inspect.cleandoc(docstring or ""), re.MULTILINE))


def syntax_of(function):
    """Returns the parsed source of a function; of nothing where Python has generated it."""
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(function)))
    except OSError:
        return ast.parse("")


def returns(function):
    """Returns whether a docstring should say what a function returns."""
    annotation = inspect.signature(function).return_annotation
    return annotation not in (None, "None") and not inspect.isgeneratorfunction(
        inspect.unwrap(function)
    )


def raises(function):
    """Returns whether a function itself raises or checks, apart from NotImplementedError."""
    if not isinstance(function, types.FunctionType):
        return False
    for node in ast.walk(syntax_of(function)):
        if isinstance(node, ast.Raise) and node.exc is not None:
            if "NotImplementedError" not in ast.unparse(node.exc):
                return True
        elif isinstance(node, ast.Call) and ast.unparse(node.func).startswith("checked_"):
            return True
    return False


def shown(signature):
    """Returns the names of arguments as a docstring has them."""
    stars = {inspect.Parameter.VAR_KEYWORD: "**", inspect.Parameter.VAR_POSITIONAL: "*"}
    return {
        stars.get(p.kind, "") + name
        for name, p in signature.parameters.items()
        if name not in {"self", "cls"}
    }


def is_interface(cls):
    """Returns whether a class is there to be derived from."""
    return any(
        "NotImplementedError" in ast.unparse(syntax_of(method))
        for method in vars(cls).values()
        if isinstance(method, types.FunctionType)
    )


@every_public_name
def test_docstring_is_complete(value):
    docstring, found = value.__doc__, sections(value.__doc__)
    constructor = value.__init__ if isinstance(value, type) else value
    record = isinstance(value, type) and issubclass(value, (tuple, Exception))
    if record:
        fields = getattr(value, "_fields", ())
        assert not fields or {"Attributes", "Args"} & found
    else:
        documented = set(contract.documented_arguments(docstring))
        missing = shown(inspect.signature(value)) - documented
        assert not missing, f"Args lacks {sorted(missing)}"
        if raises(constructor):
            assert "Raises" in found
    if isinstance(value, types.FunctionType) and returns(value):
        assert "Returns" in found or docstring.startswith("Returns")
    if not record and not (isinstance(value, type) and is_interface(value)):
        module = sys.modules[value.__module__]
        assert any(
            test.examples
            for test in doctest.DocTestFinder(recurse=False).find(value, module=module)
        ), "there is no Example"


def public_methods():
    for name, cls in PUBLIC.items():
        if isinstance(cls, type):
            for method, function in vars(cls).items():
                function = getattr(function, "__func__", function)
                public = isinstance(function, types.FunctionType) and not method.startswith("_")
                bases = (*cls.__mro__[1:], keras.layers.Layer)
                known = any(hasattr(base, method) for base in bases)
                if public and not known and "; see `" not in function.__doc__:
                    yield pytest.param(function, id=f"{name}.{method}")


@pytest.mark.parametrize("method", public_methods())
def test_docstring_of_a_new_method_is_complete(method):
    missing = shown(inspect.signature(method)) - set(contract.documented_arguments(method.__doc__))
    assert not missing, f"Args lacks {sorted(missing)}"
    if returns(method):
        assert {"Returns"} & sections(method.__doc__) or method.__doc__.startswith("Returns")
    if raises(method):
        assert "Raises" in sections(method.__doc__)


# The command ------------------------------------------------------------------------------------

# Arguments that the command fills with a flag of another default, and why.
OTHER_DEFAULT = {
    ("RandomResizedCrop", "size"): "it is the encoder's resolution",
}
ENTRIES = {
    f"{kind}-{name}": (name if table is methods.LEARNERS else None, entry)
    for kind, table in vars(methods).items()
    if isinstance(table, dict) and any(isinstance(e, methods.Entry) for e in table.values())
    for name, entry in table.items()
    if entry is not None
}


@pytest.mark.parametrize(("learner", "entry"), ENTRIES.values(), ids=list(ENTRIES))
def test_command_has_the_defaults_of_the_constructor(learner, entry):
    defaults = {name: flag.default for name, flag in flags.TRAIN.items()} | entry.defaults
    parameters = constructor_arguments(entry.make)
    for name, argument in entry.arguments.items():
        assert name in parameters, f"{entry.make.__name__} does not show {name}"
        if isinstance(argument, Flag) and (entry.make.__name__, name) not in OTHER_DEFAULT:
            assert parameters[name].default == defaults[argument.name], name
    if "threshold" in entry.arguments:  # a number there is a fixed threshold
        assert parameters["threshold"].default in (defaults[methods.CONFIDENCE.name], None)
    if learner:  # what build_learner passes to every learner
        for name in parameters.keys() & defaults.keys() - entry.arguments.keys():
            if parameters[name].annotation in ("int", "float"):
                assert parameters[name].default == defaults[name], name


# Several replicas, and XLA: these tests wait for the other process and come last ------------------


def test_import_registers_every_class(other_process):
    registered = json.loads((other_process() / "registered.json").read_text())
    assert set(contract.registered_after_importing_all_modules()) == set(registered)


@every_case
def test_two_replicas_compute_the_same_steps(case, other_process):
    replicas = state_in(other_process() / "replicas", case)
    alone = state(trained(case)[0])
    if case.learner in DEPENDS_ON_REPLICAS:
        assert [value.shape for value in replicas] == [value.shape for value in alone]
        assert all(np.isfinite(value).all() for value in replicas)
    else:
        assert contract.difference(alone, replicas) < ROUNDING


@every_case
def test_xla_computes_the_same_steps(case, other_process):
    if case.reason_against_xla:
        with pytest.raises(ValueError, match=re.escape(case.reason_against_xla)):
            learner_of(case, jit_compile=True)
    elif case not in contract.compiled_cases():
        pytest.skip("with Keras 2, test_learners_training.py compiles two learners")
    else:
        compiled = state_in(other_process() / "xla", case)
        assert contract.difference(state(trained(case)[0]), compiled) < ROUNDING
