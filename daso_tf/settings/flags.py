"""Every setting of a training run, by section: the paper's value, what is allowed.

Flags are the only configuration. A flag file has one `--name=value` per line and is given as
`--flagfile=PATH`; flags after it override it. The flags of a method stand with its entry in
`methods.py`; those of everything else stand here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from daso_tf.data import DATASETS, decode
from daso_tf.data.long_tail import ORDERS
from daso_tf.data.sources import OPTIONS
from daso_tf.settings import methods
from daso_tf.settings.flag import Flag, choice, integer, location, number, steps, string, switch
from daso_tf.settings.methods import LEARNERS, Entry
from daso_tf.settings.settings import Settings

MODEL_DIR = location(
    "model_dir",
    None,
    "Folder of the run.",
    shown_default="runs/DATASET; image_folder: runs/ and the name of --data_dir",
    free=True,
)

MAX_MEGAPIXELS = number(
    "max_megapixels",
    decode.MAX_MEGAPIXELS,
    "(0, inf)",
    "Largest image file to decode, in millions of pixels; a larger one counts as unreadable.",
    free=True,
)

DATA = (
    string("dataset", "", f"Required: one of {', '.join(DATASETS)}."),
    location("data_dir", None, "Folder of the data set, or of its downloads.", free=True),
    *(
        choice(name, None, list(option.choices), option.help)
        if option.choices
        else location(name, None, option.help, free=True)
        for name, option in OPTIONS.items()
    ),
    integer(
        "labeled_head",
        0,
        "[0, inf)",
        "Labeled images of the head class, the largest; 0: all, as they are.",
    ),
    number(
        "labeled_imbalance",
        1.0,
        "[1, inf)",
        "Imbalance ratio of the labeled images: those of the head class per image of the tail "
        "class.",
    ),
    integer(
        "unlabeled_head", 0, "[0, inf)", "Unlabeled images of the head class; 0: all, as they are."
    ),
    number("unlabeled_imbalance", 1.0, "[1, inf)", "Imbalance ratio of the unlabeled images."),
    switch("reverse_unlabeled", False, "Give the unlabeled images the opposite order of classes."),
    choice(
        "unlabeled_order",
        "labeled",
        ORDERS,
        "Order of the classes of the unlabeled images: that of the labeled ones, its opposite, or "
        "the largest classes in the middle or at both ends of it.",
    ),
    switch(
        "labeled_among_unlabeled",
        False,
        "Use the labeled images as unlabeled ones, too; they come last.",
    ),
    integer("validation_size", 0, "[0, inf)", "Training images set aside for validation."),
    location(
        "class_order",
        None,
        "File with one class per line, the head class first.",
        shown_default="larger classes first; of a benchmark, the published order",
    ),
    integer(
        "source_size",
        0,
        "[0, 4096]",
        "Side in pixels at which images are kept for augmentation; 0: their own.",
    ),
    choice(
        "stream",
        "auto",
        ["auto", "true", "false"],
        "Read image files when they are needed instead of all at the start; auto: where they need "
        "more than half of the memory.",
        free=True,
    ),
    integer(
        "max_bad_files",
        10,
        "[0, inf)",
        "Unreadable training images to leave out before the run stops.",
        free=True,
    ),
    MAX_MEGAPIXELS,
    switch(
        "drop_copies",
        False,
        "Leave out unlabeled images that are copies, or near copies, of test, validation, labeled "
        "or other unlabeled images; needs the extra `copies`.",
    ),
)

OPTIMIZATION = (
    methods.BATCH_SIZE,
    methods.UNLABELED_RATIO,
    integer(
        "microbatches",
        1,
        "[1, inf)",
        "Equal parts of a batch that are computed one after another to save memory (gradient "
        "accumulation).",
    ),
    integer("steps", 250_000, "[1, inf)", "Training steps in total.", free=True),
    choice(
        "optimizer",
        "sgd",
        ["sgd", "adam", "pytorch_adam", "adamw", "lamb", "sgdw", "lookahead_sgd"],
        "adam, pytorch_adam (with epsilon where PyTorch adds it), adamw and lamb need a smaller "
        "--learning_rate, such as 0.001; lookahead_sgd, and lamb before Keras 3, need the extra "
        "`addons`.",
    ),
    number(
        "learning_rate",
        0.03,
        "(0, inf)",
        "Learning rate; constant unless the next three flags change it.",
    ),
    integer(
        "warmup_steps",
        None,
        "[0, inf)",
        "Steps at the start in which the learning rate grows from 0.",
        shown_default="0; supervised: 2.5 % of --steps",
    ),
    choice(
        "cosine",
        "none",
        ["none", "half", "fixmatch"],
        "Let the learning rate fall over --steps: along half a cosine to 0 (the default with "
        "--freeze_encoder), or to a fifth (FixMatch's schedule).",
    ),
    steps(
        "learning_rate_drops",
        None,
        "Steps, separated by commas, after which the learning rate drops.",
        shown_default="none; supervised: after 80 and 90 % of --steps",
    ),
    number("learning_rate_drop", 0.01, "(0, 1]", "Factor of the learning rate at each drop."),
    number("momentum", 0.9, "[0, 1)", "Nesterov momentum; adam, adamw, lamb: beta 1."),
    number(
        "weight_decay",
        5e-4,
        "[0, inf)",
        "L2 decay, added to the gradient of every parameter; adamw, sgdw: decoupled decay, "
        "multiplied by the learning rate.",
    ),
    choice(
        "decayed",
        "all",
        ["all", "kernels", "state"],
        "What --weight_decay decays: all parameters; kernels, without biases and BatchNorm; or "
        "the whole state after each step, by the learning rate times --weight_decay (CDMAD).",
    ),
    number(
        "ema_decay", 0.999, "[0, 1)", "Decay of the averaged network, which makes all predictions."
    ),
    switch(
        "ema_warmup",
        True,
        "Let the decay of the averaged network grow from 0 at the start, instead of --ema_decay "
        "from the first step on.",
    ),
    switch(
        "average_statistics",
        True,
        "Average the running statistics of BatchNorm, too, instead of using those of the trained "
        "network.",
    ),
    integer("seed", 0, "[0, 2147483647]", "Seed of split, initial weights, batches and views."),
)

RUN = (
    MODEL_DIR,
    switch(
        "adopt_changes",
        False,
        "Continue a run of an earlier version with the present rules and defaults.",
        free=True,
        kept=False,
    ),
    switch(
        "adopt_data",
        False,
        "Continue a run after unlabeled images were added or removed.",
        free=True,
        kept=False,
    ),
    location("from_model_dir", None, "The finished run whose encoder cRT uses.", free=True),
    location(
        "export_dir",
        None,
        "Folder of the exported SavedModel.",
        shown_default="MODEL_DIR/export",
        free=True,
    ),
    integer(
        "evaluate_every",
        500,
        "[1, inf)",
        "Steps between evaluations, each with a checkpoint.",
        free=True,
    ),
    integer(
        "checkpoint_every",
        0,
        "[0, inf)",
        "Steps between further checkpoints; 0: only at evaluations.",
        free=True,
    ),
    choice(
        "calibrate",
        "none",
        ["none", "temperature", "vector"],
        "Correct the probabilities of the export by the validation images: with one factor for all "
        "logits, or also with a summand for each class. Without validation images, "
        "--freeze_encoder takes labeled images that are left out in turn.",
        free=True,
    ),
    switch(
        "best",
        False,
        "Export the step with the best balanced accuracy on the validation images, not the last "
        "step.",
        free=True,
    ),
    switch(
        "compare_labels_only",
        False,
        "Also train a twin that learns from the labeled images alone, with the same network and as "
        "many steps, and say what the unlabeled images changed; with --freeze_encoder it always "
        "is.",
        free=True,
    ),
    choice(
        "answer",
        "run",
        ["run", "labels_only", "auto", "discriminant", "logistic"],
        "What is exported: the learner of the run; its twin that learns from the labeled images "
        "alone; the better one by the validation images (auto; without any, the run, unless it is "
        "clearly worse on labeled images that are left out in turn); or, of the labeled images, a "
        "linear discriminant or logistic regression. All but the first need --freeze_encoder; for "
        "the twin, --compare_labels_only is enough.",
        free=True,
    ),
    integer(
        "stop_after",
        0,
        "[0, inf)",
        "Evaluations in a row without a better balanced accuracy on the validation images after "
        "which the run ends; 0: never.",
        free=True,
    ),
    integer(
        "evaluation_batch_size", 256, "[1, inf)", "Images per batch of an evaluation.", free=True
    ),
    switch(
        "report",
        True,
        "Write MODEL_DIR/report.html and the tables of the pictures at the end of a run on "
        "image_folder or image_list.",
        free=True,
    ),
    integer("keep_checkpoints", 3, "[2, inf)", "Number of checkpoints to keep.", free=True),
    integer(
        "test_images",
        0,
        "[0, inf)",
        "Test images to write to MODEL_DIR/test_images, to try the export.",
        free=True,
    ),
)

DEVICES = (
    choice(
        "jit_compile",
        "auto",
        ["auto", "true", "batch_norm", "false"],
        "What XLA compiles: the step, BatchNorm alone, nothing; auto: the step on a GPU, and "
        "BatchNorm in long runs on a CPU.",
        free=True,
    ),
    choice(
        "mixed_precision",
        "none",
        ["none", "auto", "bfloat16", "float16"],
        "Type in which the encoder computes; its weights stay float32. none: float32; auto: "
        "bfloat16 where a short trial at the start shows that it is faster.",
        free=True,
    ),
    integer(
        "steps_per_execution", 1, "[1, inf)", "Steps per call of the compiled function.", free=True
    ),
    switch(
        "device_data",
        False,
        "Copy all training images to the device once; each step takes its images from there. They "
        "may need at most half of its memory.",
        free=True,
    ),
    choice(
        "strategy",
        "none",
        ["none", "mirrored", "multi_worker"],
        "Devices that share each step: one, all GPUs of this machine, or those of many machines.",
        free=True,
    ),
    integer(
        "wait_for_workers",
        300,
        "[1, 86400]",
        "Seconds that multi_worker waits for the other workers.",
        free=True,
    ),
    switch(
        "synchronized_batch_norm",
        True,
        "Compute BatchNorm's statistics over the whole batch, not per device.",
    ),
)

ENCODER = (
    string(
        "encoder",
        "wrn_28_2",
        "wrn_DEPTH_WIDTH, such as wrn_28_2, or wrn_28_2_raw; resnet_DEPTH with 18, 34, 50 or 101, "
        "such as resnet_34; efficientnet_lite0, with weights from ImageNet; applications:NAME with "
        "a name in keras.applications, such as applications:MobileNetV3Small; keras_hub:PRESET "
        "with the name of a preset of KerasHub or its folder, such as keras_hub:dinov2_small.",
    ),
    location(
        "encoder_weights",
        None,
        "Initial weights: none; imagenet, for efficientnet_lite0 and applications; or a file: "
        "Keras weights, torchvision's or timm's ResNets as .npz or .safetensors, "
        "efficientnet_lite0's as .pth.",
        shown_default="imagenet for efficientnet_lite0, those of the preset for keras_hub, else "
        "none",
    ),
    switch(
        "freeze_encoder",
        False,
        "Do not train the encoder: compute its features of stored views once, and train a small "
        "network on them. The defaults of learner, optimization and logit adjustment are then "
        "those for frozen features.",
    ),
    choice(
        "adapter",
        "mlp",
        ["none", "mlp"],
        "The trained network on frozen features below the classifier: none, for a linear "
        "classifier, or one hidden layer (mlp).",
    ),
    integer("adapter_units", 256, "[1, 65536]", "Width of the hidden layer of --adapter=mlp."),
    number(
        "adapter_dropout",
        0.5,
        "[0, 1)",
        "Share of the inputs and hidden units of --adapter=mlp that a step leaves out.",
    ),
    integer(
        "bank_weak_views", 4, "[1, 1000]", "Weak views that a feature bank stores of each image."
    ),
    integer(
        "bank_strong_views",
        4,
        "[1, 1000]",
        "Strong views that a feature bank stores of each unlabeled image, for learners with strong "
        "views.",
    ),
    integer(
        "finetune_steps",
        0,
        "[0, inf)",
        "With --freeze_encoder, further steps on pictures, in which the whole network is trained "
        "except BatchNorm; 0: none.",
        free=True,
    ),
    number(
        "finetune_learning_rate",
        0.001,
        "(0, inf)",
        "Learning rate of --finetune_steps; it falls to 0 along half a cosine.",
        free=True,
    ),
    location(
        "cache_dir",
        None,
        "Folder of feature banks, which all runs share.",
        shown_default="daso_tf in $XDG_CACHE_HOME or ~/.cache",
        free=True,
    ),
    number(
        "max_bank_gigabytes",
        20.0,
        "(0, inf)",
        "Largest size of a feature bank in GiB.",
        free=True,
    ),
    number(
        "batch_norm_momentum",
        None,
        "[0, 1]",
        "Weight of the old running statistics of BatchNorm at each step.",
        shown_default="that of the encoder: 0.9",
    ),
)

VERBOSITY = choice(
    "verbosity",
    "warning",
    ["debug", "info", "warning", "error"],
    "Least severe messages of TensorFlow, Keras and this package to print.",
    free=True,
)


def _of(table: Mapping[str, Entry | None]) -> Iterator[Flag]:
    for entry in table.values():
        if entry is not None:
            yield from (flag for flag in entry.flags if flag not in OPTIMIZATION)


def _sections() -> dict[str, tuple[Flag, ...]]:
    """Returns the flags by section; a flag of several methods is in the first one that has it."""
    sections: dict[str, Iterable[Flag]] = {
        "Data": DATA,
        "Views": (methods.RESOLUTION, methods.WEAK_VIEW, *_of(methods.WEAK_VIEWS)),
        "Encoder": (
            *ENCODER,
            methods.CLASSIFIER,
            *_of(methods.CLASSIFIERS),
            methods.CLASSIFIER_WEIGHTS,
        ),
        "Pseudo-labels": (
            methods.PSEUDO_LABELER,
            *_of(methods.PSEUDO_LABELERS),
            *methods.SELF_TRAINING_FLAGS,
        ),
        "Thresholds": (methods.THRESHOLD, *_of(methods.THRESHOLDS)),
        "Images of no class": (methods.OPEN_SET, methods.OPEN_SET_SCORE, *_of(methods.OPEN_SETS)),
        "Imbalance of the labeled images": (
            methods.LOGIT_ADJUSTMENT,
            methods.TEST_LOGIT_ADJUSTMENT,
            methods.SUPERVISED_LOSS,
            *_of(methods.SUPERVISED_LOSSES),
            methods.BALANCED_HEAD,
            *_of(methods.BALANCED_HEADS),
        ),
        "Learner": (methods.LEARNER, *_of(LEARNERS)),
        "Optimization": OPTIMIZATION,
        "Run": RUN,
        "Devices": DEVICES,
    }
    seen: set[str] = set()
    unique: dict[str, tuple[Flag, ...]] = {}
    for title, flags in sections.items():
        by_name = {flag.name: flag for flag in flags if flag.name not in seen}
        seen |= by_name.keys()
        unique[title] = tuple(by_name.values())
    return unique


SECTIONS = _sections()
TRAIN = {flag.name: flag for flags in SECTIONS.values() for flag in flags}


def default_of(name: str, learner: str, pseudo_labeler: str | None = None) -> Any:
    """Returns the default of a flag with a learner and, if it is given, a pseudo-labeler."""
    defaults = LEARNERS[learner].defaults
    if pseudo_labeler is not None:
        defaults = {**defaults, **methods.PSEUDO_LABELERS[pseudo_labeler].defaults}
    return defaults.get(name, TRAIN[name].default)


def other_defaults(name: str) -> dict[str, Any]:
    """Returns the defaults of a flag with the methods that have another one, by method."""
    entries = {**methods.PSEUDO_LABELERS, **LEARNERS}
    return {method: of.defaults[name] for method, of in entries.items() if name in of.defaults}


def complete(settings: Settings) -> Settings:
    """Returns the settings of a run: with the learner's defaults, and with all folders named."""
    settings = settings.with_defaults(methods.defaults(settings))
    if "resolution" not in settings.given:
        from daso_tf.encoders import default_resolution

        settings = settings.replace(resolution=default_resolution(settings.encoder))
    # Learners with a schedule of their own keep unset flags, which follow the number of steps.
    if not any(methods.published_schedule(settings.learner, settings.steps)):
        if settings.warmup_steps is None:
            settings = settings.replace(warmup_steps=0)
        if settings.learning_rate_drops is None:
            settings = settings.replace(learning_rate_drops=())
    settings = settings.replace(distribution_alignment=methods.aligns(settings))
    model_dir = settings.model_dir or _default_model_dir(settings.dataset, settings.data_dir)
    export_dir = settings.export_dir
    if not export_dir or _belongs_to_another_run(Path(export_dir), Path(model_dir)):
        export_dir = f"{model_dir}/export"
    return settings.replace(model_dir=model_dir, export_dir=export_dir)


def _default_model_dir(dataset: str, data_dir: str | None) -> str:
    """Returns the folder of a run that names none: two folders of images have two of them."""
    before = f"runs/{dataset}"
    if dataset != "image_folder" or not data_dir or _started_with(Path(before), Path(data_dir)):
        return before
    return f"runs/{Path(data_dir).resolve().name or dataset}"


def _started_with(model_dir: Path, data_dir: Path) -> bool:
    """Whether a run was started with a folder of data, or with one of that name that is gone.

    Whether the images are the same is checked when the run continues.
    """
    try:
        lines = (model_dir / "flags.cfg").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return False
    flag = "--data_dir="
    folders = (Path(line.removeprefix(flag)) for line in lines if line.startswith(flag))
    then, now = next(folders, None), data_dir.resolve()
    if then is None:
        return False
    return then.resolve() == now or (then.name == now.name and not then.exists())


def _belongs_to_another_run(export_dir: Path, model_dir: Path) -> bool:
    """Whether an export would replace that of another run, whose flag file was given here."""
    folder = export_dir.parent.resolve()
    return (folder / "flags.cfg").exists() and folder != model_dir.resolve()
