"""The model card: what an exported model was trained on, how, and how good it is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import daso_tf
from daso_tf.data.unlabeled_distribution import ESTIMATE
from daso_tf.run.results import Results
from daso_tf.settings.flag import as_text
from daso_tf.settings.flags import SECTIONS, TRAIN, complete
from daso_tf.settings.methods import name_of
from daso_tf.settings.settings import Settings
from daso_tf.step.closed_forms import NAMES

_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~])")


_OPEN_SET = (
    "- Both also return `unknown_score` `(batch,)`, high for images that look like none of the "
    "classes, and `unknown` `(batch,)`, whether it is above the limit that was set by the "
    "validation images.",
)


def model_card(
    settings: Settings, results: Results, step: int, exported: Mapping[str, Any] | None = None
) -> str:
    """Returns the model card of a run as Markdown.

    Args:
        settings: Those of the run, completed.
        results: Those of the run.
        step: The step whose network is exported.
        exported: The scores of what is exported, by part. With an `answer` it is not the network of
            the run as it was evaluated, but its twin, a closed form, or the fine-tuned network.
    """
    evaluation = {entry["step"]: entry for entry in results.evaluations}.get(step, {})
    size, names = settings.resolution, results.class_names
    adjusted = settings.test_logit_adjustment
    balanced = adjusted or settings.logit_adjustment
    return "\n".join(
        [
            f"# Image classifier with {len(names)} classes",
            "",
            f"Trained by daso_tf {daso_tf.__version__}: {name_of(settings)}, {step:,} of "
            f"{settings.steps:,} steps. The data set is {_plain(settings.dataset)}.",
            *_of_another(exported or {}, settings),
            "",
            "## Input and output",
            "",
            f"- `serving_default` takes `images`, uint8 `(batch, height, width, 3)`, RGB in 0 to "
            f"255, of any size. The model resizes them to {size} x {size} pixels and normalizes "
            "them.",
            "- `serve_jpeg` takes `image_bytes`, strings `(batch,)`: JPEG or PNG files. A rotation "
            "in their EXIF metadata is ignored.",
            "- Both return `probabilities` `(batch, K)`, `class_ids` `(batch,)` and `class_names` "
            "`(batch,)`.",
            *(_OPEN_SET if settings.open_set else ()),
            "- "
            + (
                f"Logit adjustment of strength {balanced:g} is part of the probabilities: they are "
                f"for images with {_answered_for(settings)}."
                if balanced
                else "The probabilities are for images with the class distribution of the labeled "
                "images below. Rare classes are predicted rarely; `--test_logit_adjustment=1` "
                "exports a model that treats all classes alike."
            ),
            "",
            "## Classes and data",
            "",
            *_table(_classes(results, evaluation, adjusted=adjusted == 1)),
            "",
            "Images of any other class get one of these classes, too.",
            "",
            "## Results",
            "",
            *_results(evaluation, step),
            "",
            "## Settings",
            "",
            "All other settings have their defaults.",
            "",
            *(f"- `--{name}={value}`" for name, value in _changed(settings).items()),
            "",
        ]
    )


def _answered_for(settings: Settings) -> str:
    if settings.unlabeled_distribution == ESTIMATE:
        return "the class distribution that was estimated for the unlabeled images"
    return "equally many of each class"


def _of_another(exported: Mapping[str, Any], settings: Settings) -> list[str]:
    """Returns lines that say that another network than that of the run is exported, if it is."""
    name = exported.get("answer")
    if name is None:
        return []
    scores = "; ".join(
        f"{part}: accuracy {_percent(found['accuracy'])}, balanced accuracy "
        f"{_percent(found['balanced_accuracy'])}"
        for part in ("test", "validation")
        if (found := exported.get(part))
    )
    if name == "finetuned":
        what = f"was then trained as a whole on pictures for {settings.finetune_steps:,} steps"
    elif name in NAMES:
        what = f"is {NAMES[name]} on features of the frozen encoder, of the labeled images alone"
    else:
        what = "is the twin of that run: it learned from the labeled images alone, in as many steps"
    return [
        "",
        f"The exported network {what} ({scores or 'not evaluated'}). Results below are those of "
        "the run.",
    ]


def _classes(
    results: Results, evaluation: Mapping[str, Any], adjusted: bool
) -> list[Sequence[str]]:
    """Returns the rows of the table of classes; "-" for what is not known."""
    unknown = [None] * len(results.class_names)
    columns: dict[str, Sequence[Any]] = {
        "labeled images": results.labeled_counts,
        "unlabeled images": results.unlabeled_counts or unknown,
    }
    part = next((name for name in ("test", "validation") if name in evaluation), None)
    if part:
        scores = evaluation[part]["logit_adjusted"] if adjusted else evaluation[part]
        columns[f"recall, {part}"] = [_percent(share) for share in scores["recall"]]
    rows = zip(results.class_names, *columns.values(), strict=True)
    return [
        ("number", "class", *columns),
        *(
            (str(number), _plain(name), *("-" if n is None else str(n) for n in of_class))
            for number, (name, *of_class) in enumerate(rows)
        ),
    ]


def _results(evaluation: Mapping[str, Any], step: int) -> list[str]:
    parts = [name for name in ("test", "validation") if name in evaluation]
    if not parts:
        return [f"The network of step {step:,} was not evaluated."]
    rows: list[Sequence[str]] = [("images", "accuracy", "balanced accuracy")]
    for part in parts:
        scores = evaluation[part]
        for name, of in ((part, scores), (f"{part}, logit-adjusted", scores["logit_adjusted"])):
            rows.append((name, _percent(of["accuracy"]), _percent(of["balanced_accuracy"])))
    return [
        *_table(rows),
        "",
        "Balanced accuracy is the mean recall of the classes. The logit-adjusted rows are what "
        "`--test_logit_adjustment=1` answers.",
    ]


def _changed(settings: Settings) -> dict[str, str]:
    """Returns the settings that differ from the defaults of the learner, by name."""
    named = {name: settings[name] for name in ("dataset", "learner", "model_dir", "steps")}
    defaults = complete(Settings({name: flag.default for name, flag in TRAIN.items()} | named))
    shown = [flag.name for flags in SECTIONS.values() for flag in flags if not _is_path(flag.name)]
    return {
        name: as_text(settings[name])
        for name in shown
        if name in named or settings[name] != defaults[name]
    }


def _is_path(name: str) -> bool:
    """Whether a flag says where something is, which concerns only the machine of the run."""
    return name.endswith(("_dir", "_weights"))


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]


def _plain(text: str) -> str:
    """Returns a text in which no character is Markdown."""
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
