"""What can be typed after `daso-tf`: the flags and the help of every command.

What a command does is the `main` of the module of its name. That module imports TensorFlow, and
this one does not: so help is shown, and wrong flags are refused, at once.
"""

from __future__ import annotations

from daso_tf.commands.of_run import STEP
from daso_tf.commands.terminal import Command
from daso_tf.data.sources.benchmarks import CIFAR10_STATISTICS
from daso_tf.settings import of_flags
from daso_tf.settings.flag import as_text, choice, integer, location, number, string, switch
from daso_tf.settings.flags import MAX_MEGAPIXELS, SECTIONS, TRAIN

# What may differ from the run. The other settings are those of its flag file.
OF_EXPORT = (
    "best",
    "answer",
    "test_logit_adjustment",
    "calibrate",
    "export_dir",
    "data_dir",
    "cache_dir",
    "stream",
    "adopt_data",
)
OF_INSPECTION = ("best", "cache_dir", "data_dir", "evaluation_batch_size")
_MEAN, _STD = CIFAR10_STATISTICS

_COMMANDS = (
    Command(
        "train",
        flags=SECTIONS,
        details="With --dataset=image_folder or image_list, settings that are not given fit\n"
        "the pictures and the machine; the others below have their defaults.",
        check=of_flags.check,
    ),
    Command(
        "export",
        flags=(
            STEP,
            string(
                "format",
                "saved_model",
                "saved_model, litert, onnx, or several of them, separated by commas. LiteRT and "
                "ONNX are the files EXPORT_DIR.tflite and EXPORT_DIR.onnx; onnx needs the extra "
                "`onnx`.",
            ),
            integer(
                "side",
                None,
                "[1, 4096]",
                "Height and width in pixels of the images that LiteRT and ONNX take.",
                shown_default="the resolution of the run",
            ),
            *(TRAIN[name] for name in OF_EXPORT),
        ),
        usage="RUN",
        details="RUN is the folder of a training run. Its other settings are those of its\n"
        "flags.cfg.\n"
        "Exit code: 0 exported, 2 nothing was started.",
    ),
    Command(
        "report",
        flags=(
            STEP,
            switch("compare", False, "Show several runs side by side, by their results alone."),
            location(
                "output",
                None,
                "File to write with --compare.",
                shown_default="comparison.html",
            ),
            *(TRAIN[name] for name in OF_INSPECTION),
        ),
        usage="RUN...",
        details="RUN is the folder of a training run. The files are RUN/report.html,\n"
        "RUN/unlabeled.csv, RUN/labeled.csv, the same as .jsonl, and the lists in RUN/report/.\n"
        "With --compare, there are two or more RUNs, and one file shows them side by side.\n"
        "Exit code: 0 written, 2 nothing was started.",
    ),
    Command(
        "label-next",
        flags=(
            integer("count", 50, "[1, inf)", "Pictures to label."),
            location("output", None, "CSV file to write.", shown_default="RUN/next.csv"),
            *(TRAIN[name] for name in OF_INSPECTION),
        ),
        usage="RUN",
        details="RUN is the folder of a training run on image_folder or image_list. The file\n"
        "lists all pictures, those to label first. `daso-tf train --dataset=image_list\n"
        "--labels=FILE` reads it.\n"
        "Exit code: 0 written, 2 nothing was started.",
    ),
    Command(
        "predict",
        flags=(
            location(
                "model", None, "Required: folder of an exported SavedModel, or a .keras file."
            ),
            location("output", None, "File to write.", shown_default="the terminal"),
            choice(
                "format",
                "csv",
                ["csv", "jsonl"],
                "What to write: CSV, or one JSON object per line.",
            ),
            integer("top", 1, "[1, inf)", "How many classes per image, the most probable first."),
            switch(
                "unknown",
                False,
                "Also write the unknown score of each image, and whether it belongs to no class; "
                "needs the model of a run with --open_set.",
            ),
            number(
                "coverage",
                None,
                "(0, 1)",
                "Add the set of classes that contains the true one with this probability.",
                shown_default="no sets",
            ),
            location(
                "prior",
                None,
                "Answer for this class distribution: a JSON file, a CSV file with lines such as "
                "cat,0.25, or estimate, which estimates that of the pictures.",
                shown_default="that of the training",
            ),
            MAX_MEGAPIXELS,
        ),
        usage="PATH...",
        details="A SavedModel is a program; use only one that you trust.\n"
        "PATH is an image file, a folder with image files, or a pattern in quotes, such as\n"
        '"folder/*.jpg". The output is CSV with one line per image: path, class number, class\n'
        "name, probability. Names that a spreadsheet would run as formulas begin with '.\n"
        "Exit code: 0 all files were classified, 1 some could not be read, or the disk is full,\n"
        "2 nothing was started, 141 the reader of the output, such as head, has left.",
    ),
    Command(
        "describe",
        flags={
            "Picture": (
                location("picture", None, "PNG file.", shown_default="MODEL_DIR/data.png"),
            ),
            **SECTIONS,
        },
        details="Its other flags are those of `daso-tf train`.",
    ),
    Command(
        "preview",
        flags=(
            integer("side", 96, "[8, 512]", "Longer side of a view in pixels."),
            integer("seed", 0, "[0, 2147483647]", "Seed of the random views."),
        ),
        usage="IMAGE_OR_FOLDER OUT.png",
        details="The sheet shows each operation at three levels on the first image, then weak and\n"
        "strong views of up to four images.",
    ),
    Command(
        "replay",
        flags=(
            switch("xla", False, "Compile training steps with XLA."),
            location(
                "write", None, "Page of the documentation whose table of recordings is replaced."
            ),
        ),
        usage="RECORDING.npz|FOLDER ...",
        details="Behavior of a recorded implementation that the library does not follow by design\n"
        "is marked; with it applied, all quantities must be within their tolerances.\n"
        "Exit code: 0 all other quantities are within their tolerances, 1 one is not, 2 a file\n"
        "cannot be replayed. Other files of a folder are skipped.",
    ),
    Command(
        "convert",
        flags=(
            integer(
                "image_size", 32, "[8, inf)", "State dict: side in pixels of its training images."
            ),
            string(
                "image_mean",
                as_text(_MEAN),
                "State dict: mean of each color channel that its training images were normalized "
                "with, in [0, 1].",
            ),
            string(
                "image_std",
                as_text(_STD),
                "State dict: standard deviation of each color channel.",
            ),
        ),
        usage="SOURCE TARGET",
        details="""\
SOURCE is one of
    *.keras                a learner, saved by this version of Keras or, under Keras 3, by 2.15
    *.npz, *.safetensors   a state dict of the authors' wide residual network
TARGET is one of
    *.keras                the learner, for `keras.saving.load_model`
    *.weights.h5           its averaged encoder, for --encoder_weights of a new run
    anything else          a folder, for a SavedModel of the averaged network
Exit code: 0 written, 2 SOURCE or TARGET cannot be used.""",
    ),
    Command(
        "workers",
        parses=False,
        needs_library=False,
        usage="NUMBER [FLAGS]",
        details="FLAGS are those of `daso-tf train`; its --help lists them. Each worker gets\n"
        "them and --strategy=multi_worker.\n"
        "Exit code: 0, or that of the first worker that fails; 130 interrupted, 143 SIGTERM.",
    ),
    Command(
        "estimate-distribution",
        flags={
            "Estimate": (location("output", None, "Required: JSON file to write."),),
            **SECTIONS,
        },
        details="Its other flags are those of `daso-tf train`; give those of a finished run.\n"
        "Exit code: 0 written, 2 nothing was started.",
    ),
    Command(
        "combinations",
        flags=(
            location("write", None, "Folder to write the generated pages of the documentation to."),
        ),
    ),
    Command(
        "presets",
        needs_library=False,
        details="`daso-tf train --flagfile=NAME` reads a preset, unless the working directory has\n"
        "a file of that name.",
    ),
)
COMMANDS = {command.name: command for command in _COMMANDS}
