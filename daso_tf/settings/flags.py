"""Every setting of a training run: its name, the paper's value, what is allowed.

Flags are the only configuration. A flag file holds one `--name=value` a line and is given as
`--flagfile=PATH`; flags after it override it.
"""

from pathlib import Path

from absl import flags

from daso_tf.data import DATASETS
from daso_tf.platform.strategies import STRATEGIES
from daso_tf.run.files import write_atomically
from daso_tf.settings.build import (
    BALANCED_HEADS,
    LEARNERS,
    PSEUDO_LABELERS,
    SUPERVISED_LOSSES,
    THRESHOLDS,
    WEAK_VIEWS,
)
from daso_tf.settings.optimizers import OPTIMIZERS

FLAGS = flags.FLAGS

# What may differ between the beginning of a run and its continuation: where things lie, how long
# it goes on, how fast, and how its model answers. Everything else would make it another run.
FREE_TO_CHANGE = {
    "data_dir",
    "evaluation_batch_size",
    "export_dir",
    "from_model_dir",
    "jit_compile",
    "keep_checkpoints",
    "max_bad_files",
    "mixed_precision",
    "model_dir",
    "steps",
    "steps_per_execution",
    "strategy",
    "stream",
    "test_images",
    "test_logit_adjustment",
    "wait_for_workers",
}


def _number(define, name, default, interval, text):
    """Defines a number flag that has to lie in an interval such as "[0, 1)"."""
    low, high = (float(bound) for bound in interval[1:-1].split(","))

    def inside(value):  # nan compares false, so it is never inside
        above = value >= low if interval[0] == "[" else value > low
        below = value <= high if interval[-1] == "]" else value < high
        return above and below

    define(name, default, f"{text} In {interval}.")
    flags.register_validator(name, inside, message=f"must be a number in {interval}")


def _integer(name, default, interval, text):
    _number(flags.DEFINE_integer, name, default, interval, text)


def _float(name, default, interval, text):
    _number(flags.DEFINE_float, name, default, interval, text)


# ---- Data
flags.DEFINE_string("dataset", "", f"Needed: one of {', '.join(DATASETS)}.")
flags.DEFINE_string("data_dir", None, "Where the data set lies, or may be downloaded to.")
flags.DEFINE_enum("labeled", None, ["l_train", "l_train_val"], "semi_aves: its labeled images.")
flags.DEFINE_enum("unlabeled", None, ["in", "in+out"], "semi_aves: its unlabeled images.")
_integer("labeled_head", 0, "[0, inf)", "Labeled images of the head class; 0: all, as they are.")
_float("labeled_imbalance", 1.0, "[1, inf)", "Labeled images of the head class per tail image.")
_integer(
    "unlabeled_head", 0, "[0, inf)", "Unlabeled images of the head class; 0: all, as they are."
)
_float("unlabeled_imbalance", 1.0, "[1, inf)", "Unlabeled images of the head class per tail image.")
flags.DEFINE_bool("reverse_unlabeled", False, "The unlabeled head class is the labeled tail class.")
_integer("validation_size", 0, "[0, inf)", "Training images set aside for validation.")
_integer("source_size", 0, "[0, 4096]", "Size images are kept at for augmentation; 0: their own.")
_integer("resolution", 32, "[8, 1024]", "Height and width of what the encoder sees, in pixels.")
flags.DEFINE_enum(
    "stream",
    "auto",
    ["auto", "true", "false"],
    "Read image files when needed, not all at the start; auto: if they need half the memory.",
)
_integer("max_bad_files", 10, "[0, inf)", "Unreadable training images to leave out at most.")

# ---- Views
flags.DEFINE_enum(
    "weak_view",
    "padded_crop",
    list(WEAK_VIEWS),
    "How weak views are cropped: shifted by up to an eighth, or a random part of any size.",
)
flags.DEFINE_bool("horizontal_flip", True, "Flip half of the views; off for digits and letters.")
_integer("cutout_size", 16, "[0, 1024]", "Side of the square cut out of strong views, in pixels.")

# ---- Learner
flags.DEFINE_enum("learner", "fixmatch", list(LEARNERS), "Which views, which losses.")
flags.DEFINE_enum(
    "pseudo_labeler",
    "daso",
    list(PSEUDO_LABELERS),
    "What unlabeled images learn; supervised, pseudo_label, usadtm: linear.",
)
flags.DEFINE_string("encoder", "wrn_28_2", "wrn_DEPTH_WIDTH, resnet_DEPTH, applications:NAME.")
flags.DEFINE_string(
    "encoder_weights", None, "File to begin from: Keras weights, or torchvision .npz."
)
flags.DEFINE_enum(
    "threshold",
    "fixed",
    ["fixed", *THRESHOLDS],
    "How much fixmatch and pseudo_label teach a pseudo-label: wholly if it is confident enough, or "
    "as that paper has it.",
)
_float(
    "confidence_threshold",
    0.95,
    "[0, 1]",
    "Pseudo-labels less confident are not learnt; usadtm: 0.85.",
)
_float("freematch_fairness", 0.01, "[0, inf)", "Weight of freematch's fairness loss.")
_float(
    "unlabeled_weight",
    1.0,
    "[0, inf)",
    "Weight of the consistency loss (lambda_u); mean_teacher: 50, mixmatch: 100, remixmatch: 1.5.",
)
_float(
    "ramp_fraction",
    0.0,
    "[0, 1]",
    "Part of the run over which that weight grows from 0; pseudo_label, mean_teacher: 0.4, "
    "mixmatch, remixmatch: 0.016.",
)
_float(
    "sharpening_temperature", 0.5, "(0, inf)", "Temperature of mixmatch's and remixmatch's guess."
)
_float("mixup_beta", 0.5, "(0, inf)", "How evenly mixmatch mixes; remixmatch: 0.75.")
flags.DEFINE_bool(
    "distribution_alignment",
    False,
    "Scale remixmatch's guesses to the labeled images' classes; remixmatch: true.",
)
_float("premixup_weight", 0.5, "[0, inf)", "Weight of remixmatch's loss of unmixed strong views.")
_float("rotation_weight", 0.5, "[0, inf)", "Weight of remixmatch's rotation loss.")
_float("mutual_information_weight", 0.1, "[0, inf)", "Weight of usadtm's mutual information.")

# ---- Balance of the classes
_float("logit_adjustment", 0.0, "[0, inf)", "Strength (tau) of logit adjustment while training.")
_float(
    "test_logit_adjustment",
    0.0,
    "[0, inf)",
    "Strength (tau) of logit adjustment in what the trained model answers.",
)
flags.DEFINE_enum(
    "supervised_loss",
    "cross_entropy",
    list(SUPERVISED_LOSSES),
    "What labeled images cost; class_balanced and ldam (LDAM-DRW) by their class's size.",
)
_float("class_balance_beta", 0.999, "[0, 1)", "How unlike those weights are; 0: all the same.")
_float("ldam_max_margin", 0.5, "(0, inf)", "Margin of the rarest class in ldam.")
_float(
    "ldam_scale",
    1.0,
    "(0, inf)",
    "What ldam multiplies logits by; DASO's comparison has 30, and --warmup_steps.",
)
_integer("ldam_reweight_after", 200_000, "[0, inf)", "Steps before ldam weighs the classes.")
flags.DEFINE_enum(
    "balanced_head",
    "none",
    ["none", *BALANCED_HEADS],
    "A second, balanced classifier that answers in place of the first.",
)
_float("cossl_start", 0.8, "[0, 1]", "Part of the run after which cossl makes the pseudo-labels.")
_float("cossl_least_share", 0.6, "[0, 1]", "Least share that a labeled feature keeps in cossl.")

# ---- DASO
_float(
    "alignment_weight",
    1.0,
    "[0, inf)",
    "Weight of the alignment loss (lambda_align); pseudo_label, mean_teacher, mixmatch: 0.",
)
_float("prototype_temperature", 0.05, "(0, inf)", "Temperature of semantic pseudo-labels.")
_float("distribution_temperature", 1.5, "(0, inf)", "Temperature of blend weights (T_dist).")
flags.DEFINE_bool(
    "distribution_aware", True, "Blend by class, after the pseudo-labels' own shares."
)
_float("blend_weight", 0.5, "[0, 1]", "Share of the semantic label if not distribution_aware.")
_integer(
    "pretrain_steps", 5000, "[0, inf)", "Steps before semantic pseudo-labels begin; usadtm: 500."
)
_integer("distribution_period", 100, "[1, inf)", "Steps between updates of the blend weights.")
_integer("queue_size", 256, "[1, inf)", "Labeled features remembered of each class (Q).")

# ---- Distribution alignment, DebiasPL and DARP
flags.DEFINE_string(
    "unlabeled_distribution",
    "labeled",
    "Classes' shares of the unlabeled images: labeled (like those), known, or a JSON file.",
)
_float("debiaspl_strength", 0.4, "[0, inf)", "How much of the mean bias debiaspl takes off.")
_float("darp_start", 0.4, "[0, 1]", "Part of the run after which darp refines pseudo-labels.")
_integer("darp_period", 10, "[1, inf)", "Steps between two refinements of darp.")
_float("darp_alpha", 2.0, "(0, inf)", "How many times its images may be taken for a class in darp.")
_integer("darp_iterations", 10, "[1, inf)", "Rounds of a refinement of darp.")

# ---- CReST
_integer("generation_steps", 50_000, "[1, inf)", "Steps of a generation of crest, crest_plus.")
_float("crest_alpha", 3.0, "(0, inf)", "The larger, the more images of frequent classes are added.")
_float("crest_temperature", 0.5, "[0, 1]", "Temperature of crest_plus in the last generation.")

# ---- Optimization
_integer("batch_size", 64, "[1, inf)", "Labeled images in a step (B).")
_integer("unlabeled_ratio", 2, "[1, inf)", "Unlabeled images per labeled image in a step (mu).")
_integer(
    "microbatches",
    1,
    "[1, inf)",
    "Equal parts of a step's batch that are in memory one after another (gradient accumulation).",
)
_integer("steps", 250_000, "[1, inf)", "Training steps in all.")
flags.DEFINE_enum(
    "optimizer",
    "sgd",
    list(OPTIMIZERS),
    "What turns gradients into steps; adam, adamw, lamb: with a smaller --learning_rate.",
)
_float("learning_rate", 0.03, "(0, inf)", "Learning rate; constant, but for the next three.")
_integer("warmup_steps", 0, "[0, inf)", "First steps, over which the learning rate grows from 0.")
flags.DEFINE_list(
    "learning_rate_drops", [], "Steps, comma-separated, where the learning rate drops."
)
_float("learning_rate_drop", 0.01, "(0, 1]", "What the learning rate is multiplied by there.")
_float("momentum", 0.9, "[0, 1)", "Nesterov momentum; adam, adamw, lamb: beta 1.")
_float(
    "weight_decay",
    5e-4,
    "[0, inf)",
    "L2 decay, added to the gradient of every parameter; adamw, sgdw: taken off the parameter.",
)
_float("ema_decay", 0.999, "[0, 1)", "Decay of the averaged network, which is what is evaluated.")
_integer("seed", 0, "[0, 2147483647]", "Seed of split, initial weights, batches and views.")

# ---- Running
flags.DEFINE_string("model_dir", None, "Where the run is kept. [default: runs/DATASET]")
flags.DEFINE_string("from_model_dir", None, "The finished run whose encoder crt takes.")
flags.DEFINE_string("export_dir", None, "Where the SavedModel goes. [default: MODEL_DIR/export]")
_integer("evaluate_every", 500, "[1, inf)", "Steps between evaluations, each with a checkpoint.")
_integer("evaluation_batch_size", 256, "[1, inf)", "Images in a batch of an evaluation.")
_integer("keep_checkpoints", 3, "[2, inf)", "How many checkpoints stay.")
_integer("test_images", 0, "[0, inf)", "Test images to write to MODEL_DIR/test_images, to try.")
flags.DEFINE_enum(
    "jit_compile",
    "auto",
    ["auto", "true", "batch_norm", "false"],
    "What XLA compiles: the step, BatchNorm alone, nothing; auto: the step on a GPU, and on a CPU "
    "BatchNorm in long runs.",
)
flags.DEFINE_enum(
    "mixed_precision",
    "none",
    ["none", "bfloat16", "float16"],
    "What the encoder computes in, its weights staying float32; none: float32.",
)
_integer("steps_per_execution", 1, "[1, inf)", "Steps that are handed to the device at a time.")


flags.DEFINE_enum(
    "strategy",
    "none",
    list(STRATEGIES),
    "Devices that share each step: one, all GPUs of this machine, or those of many machines.",
)
_integer("wait_for_workers", 300, "[1, 86400]", "Seconds multi_worker waits for all to be there.")
flags.DEFINE_bool(
    "synchronized_batch_norm",
    True,
    "BatchNorm takes the statistics of the whole batch, not of each device's part of it.",
)


flags.register_validator(
    "learning_rate_drops",
    lambda steps: all(step.isdecimal() for step in steps),
    message="must be whole numbers, such as 200000,225000",
)


def adopt_learner_defaults() -> None:
    """Gives the flags that were not given the values that the chosen learner's paper has."""
    for name, value in LEARNERS[FLAGS.learner].defaults.items():
        FLAGS.set_default(name, value)


def settings() -> dict[str, str]:
    """Returns the value of every flag of this file as text, by name; unset ones are left out."""
    own = FLAGS.flags_by_module_dict()[__name__]
    return {flag.name: _text(flag.value) for flag in own if flag.value is not None}


def write_flags_file(path: Path) -> None:
    """Writes every flag that has a value, sorted by name, so that `--flagfile` reads it back."""
    text = "".join(f"--{name}={value}\n" for name, value in sorted(settings().items()))
    write_atomically(path, lambda file: file.write(text.encode()))


def changes_since(path: Path) -> list[str]:
    """Tells which flags differ from a flag file's, of those that make a run what it is.

    Args:
        path: a file that `write_flags_file` wrote.

    Returns:
        One text a flag, such as `--seed: 0 there, 1 now`; empty where the run can go on.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    there = dict(line.removeprefix("--").split("=", 1) for line in lines if "=" in line)
    now = settings()
    changes = []
    for name in sorted((there.keys() | now.keys()) - FREE_TO_CHANGE):
        before, after = there.get(name, "unset"), now.get(name, "unset")
        if name in FLAGS:
            # A version that did not have the flag yet did what its default does.
            flag = FLAGS[name]
            before = _text(flag.parser.parse(before) if name in there else flag.default)
        if before != after:
            changes.append(f"--{name}: {before} there, {after} now")
    return changes


def _text(value) -> str:
    if value is None:
        return "unset"
    if isinstance(value, list):
        return ",".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
