"""Which learner, pseudo-labeler, balance and threshold go together, and why others do not.

`python -m daso_tf.combinations` prints the table of them that README.md holds.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from daso_tf.commands import terminal
from daso_tf.learners import ClassifierRetraining
from daso_tf.pseudo_labels import AlignedPseudoLabeler
from daso_tf.settings.build import BALANCED_HEADS, LEARNERS, PSEUDO_LABELERS, THRESHOLDS

# What counters imbalance, by the flag that asks for it.
BALANCES = {
    "logit_adjustment": "--logit_adjustment",
    "test_logit_adjustment": "--test_logit_adjustment",
    "class_balanced": "--supervised_loss=class_balanced",
    "ldam": "--supervised_loss=ldam",
    **{name: f"--balanced_head={name}" for name in BALANCED_HEADS},
}

# What each learner is combined with in the tables of DASO's paper.
PAPER = {
    "supervised": {"linear", "logit_adjustment", "class_balanced", "ldam"},
    "pseudo_label": {"linear"},
    "mean_teacher": {"linear", "daso", "logit_adjustment"},
    "mixmatch": {"linear", "daso", "logit_adjustment"},
    "remixmatch": {"linear", "daso", "darp", "crest", "crest_plus", "logit_adjustment"},
    "fixmatch": {"linear", "daso", "darp", "crest", "crest_plus", "logit_adjustment", "abc"},
    "usadtm": {"linear"},
    "crt": {"linear"},
}


class Refusal(NamedTuple):
    """Two settings that do not go together, as flags, and why."""

    one: str
    other: str
    reason: str

    def __str__(self) -> str:
        return f"{self.one} does not go with {self.other}: {self.reason}"


def refusals(
    learner: str,
    pseudo_labeler: str = "linear",
    balances: Sequence[str] = (),
    threshold: str = "fixed",
) -> Iterator[Refusal]:
    """Yields what does not go together in a combination; nothing where it is a sensible one.

    Args:
        learner: a key of `LEARNERS`.
        pseudo_labeler: a key of `PSEUDO_LABELERS`.
        balances: keys of `BALANCES`.
        threshold: "fixed", which says nothing, or a key of `THRESHOLDS`.

    Example:

    >>> [refusal.reason for refusal in refusals("supervised", "daso")]
    ['it learns from the labeled images alone']
    """
    learning, labeling = LEARNERS[learner].learner, PSEUDO_LABELERS[pseudo_labeler].made_by
    learner_flag, labeler_flag = f"--learner={learner}", f"--pseudo_labeler={pseudo_labeler}"
    if learning.refuses_pseudo_labeler and pseudo_labeler != "linear":
        yield Refusal(labeler_flag, learner_flag, learning.refuses_pseudo_labeler)
    elif "margins" in labeling.asks_for and learning.refuses_margins:
        yield Refusal(labeler_flag, learner_flag, learning.refuses_margins)
    if threshold != "fixed" and learning.refuses_threshold:
        yield Refusal(f"--threshold={threshold}", learner_flag, learning.refuses_threshold)
    for head in filter(BALANCED_HEADS.get, balances):
        if learning.refuses_balanced_head:
            yield Refusal(BALANCES[head], learner_flag, learning.refuses_balanced_head)
        for name in BALANCED_HEADS[head].made_by.asks_for & labeling.refuses.keys():
            yield Refusal(labeler_flag, BALANCES[head], labeling.refuses[name])
    if balances and learning.class_balanced_batches:
        reason = "its batches hold as many images of every class already"
        yield Refusal(BALANCES[balances[0]], learner_flag, reason)
    for one, other in itertools.combinations(balances, 2):
        reason = "each counters the imbalance of the labeled images; both would counter it twice"
        yield Refusal(BALANCES[one], BALANCES[other], reason)


def check(flags) -> None:
    """Refuses flags that do not go together, before anything is loaded.

    Args:
        flags: an object with the settings of `daso_tf.flags` as attributes.

    Raises:
        ValueError: with the two flags and the reason.
    """
    chosen = (flags.learner, flags.pseudo_labeler, _balances(flags), flags.threshold)
    found = list(refusals(*chosen))
    labeler = PSEUDO_LABELERS[flags.pseudo_labeler].made_by
    if flags.distribution_alignment and issubclass(labeler, AlignedPseudoLabeler):
        labeler_flag = f"--pseudo_labeler={flags.pseudo_labeler}"
        reason = "the guesses would be aligned twice; --nodistribution_alignment leaves it to one"
        found.append(Refusal(labeler_flag, "--distribution_alignment", reason))
    if flags.jit_compile == "true" and "xla" in labeler.refuses:
        labeler_flag = f"--pseudo_labeler={flags.pseudo_labeler}"
        found.append(Refusal(labeler_flag, "--jit_compile=true", labeler.refuses["xla"]))
    retraining = LEARNERS[flags.learner].learner is ClassifierRetraining
    if retraining and not flags.from_model_dir:
        raise ValueError(
            f"--learner={flags.learner} retrains the classifier of a finished run: say which, "
            "--from_model_dir=RUN."
        )
    if flags.from_model_dir and not retraining:
        reason = "it trains an encoder of its own; --encoder_weights gives it one to begin with"
        found.append(Refusal("--from_model_dir", f"--learner={flags.learner}", reason))
    _check_microbatches(flags.microbatches, flags.batch_size)
    if found:
        raise ValueError(f"{found[0]}. Leave one of them out, or choose another.")


def _check_microbatches(microbatches: int, batch_size: int) -> None:
    if batch_size % microbatches:
        fitting = [str(n) for n in range(1, batch_size + 1) if batch_size % n == 0]
        raise ValueError(
            f"--microbatches={microbatches} has to divide --batch_size={batch_size}; values that"
            f" do: {', '.join(fitting)}."
        )


def table() -> str:
    """Writes the combinations as Markdown: a row a learner, and the reasons below."""
    columns = [*PSEUDO_LABELERS, *BALANCES, "threshold"]
    lines = [
        f"| learner | {' | '.join(f'`{column}`' for column in columns)} |",
        "|" + "---|" * (len(columns) + 1),
    ]
    reasons: list[str] = []
    for learner in LEARNERS:
        cells = [_cell(learner, column, reasons) for column in columns]
        lines.append(f"| `{learner}` | {' | '.join(cells)} |")
    lines += ["", "Bold: in the tables of DASO's paper.", ""]
    lines += [f"{number}. {reason}" for number, reason in enumerate(reasons, start=1)]
    lines += ["", *_others()]
    return "\n".join(lines)


def _balances(flags) -> list[str]:
    """Returns the keys of `BALANCES` that flags ask for."""
    asked = {
        "logit_adjustment": flags.logit_adjustment > 0,
        "test_logit_adjustment": flags.test_logit_adjustment > 0,
        flags.supervised_loss: True,
        flags.balanced_head: True,
    }
    return [name for name in BALANCES if asked.get(name)]


def _cell(learner: str, column: str, reasons: list[str]) -> str:
    """One cell; appends the reason for its refusal to a list if it is not there yet."""
    for refusal in refusals(learner, **_asked_by(column)):
        reason = f"{refusal.reason[0].upper()}{refusal.reason[1:]}."
        if reason not in reasons:
            reasons.append(reason)
        return f"no ({reasons.index(reason) + 1})"
    return "**yes**" if column in PAPER.get(learner, ()) else "yes"


def _asked_by(column: str) -> dict:
    """Returns what a column of the table is about, as arguments of `refusals`."""
    if column == "threshold":  # what is true of one of them is true of all
        return {"threshold": next(iter(THRESHOLDS))}
    if column in BALANCES:
        return {"balances": (column,)}
    return {"pseudo_labeler": column}


def _others() -> Iterator[str]:
    """Lines for what does not depend on the learner: pseudo-labelers and balances by pairs."""
    pairs = [(labeler, (balance,)) for labeler in PSEUDO_LABELERS for balance in BALANCES]
    pairs += [("linear", two) for two in itertools.combinations(BALANCES, 2)]
    found: dict[str, list[Refusal]] = {}
    for labeler, balances in pairs:
        for refusal in refusals("fixmatch", labeler, balances):
            found.setdefault(refusal.reason, []).append(refusal)
    for reason, members in found.items():
        ones = dict.fromkeys(member.one for member in members)
        others = dict.fromkeys(member.other for member in members)
        named = f"{_listed(ones)} with {_listed(others)}"
        if ones.keys() & others.keys():
            named = f"Two of {_listed(ones | others)}"
        yield f"- {named}: no, {reason}."


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def main(argv: list[str]) -> int:
    """Prints the table."""
    if len(argv) > 1:
        return terminal.fail(f"{argv[1]!r} is not a flag; this command has none")
    print(table())
    return 0


if __name__ == "__main__":
    terminal.run(main)
