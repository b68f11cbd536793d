"""What does the person at the terminal want? One file per command.

`SUMMARIES` lists the commands in the order of `daso-tf --help`.
"""

SUMMARIES = {
    "train": "Train a classifier and export it.",
    "export": "Export a step of a training run.",
    "report": "Report what is in the unlabeled pictures of a training run.",
    "label-next": "List the pictures whose labels would help most.",
    "predict": "Classify image files with an exported model.",
    "describe": "Show what a training run would learn from: a table and a picture.",
    "preview": "Show what the augmentations do to your images.",
    "replay": "Compare the library with recorded runs of the published implementations.",
    "convert": "Convert trained networks between Keras versions, and from PyTorch.",
    "workers": "Train with several worker processes on this machine.",
    "estimate-distribution": "Estimate the class distribution of the unlabeled images.",
    "combinations": "Show which methods can be combined.",
    "presets": "List the flag files that the package contains.",
}
