"""The flag file of a run, and whether the run may continue with other flags."""

from __future__ import annotations

from pathlib import Path

from daso_tf.run.files import write_atomically
from daso_tf.settings.flag import as_text
from daso_tf.settings.flags import TRAIN, default_of
from daso_tf.settings.settings import Settings


def write_flags_file(path: Path, settings: Settings) -> None:
    """Writes every flag of a run that has a value, sorted by name, for `--flagfile`.

    Args:
        path: The file, in a folder that exists.
        settings: The settings of the run.
    """
    texts = {name: as_text(settings[name]) for name in sorted(TRAIN) if settings[name] is not None}
    text = "".join(f"--{name}={value}\n" for name, value in texts.items())
    write_atomically(path, lambda file: file.write(text.encode()))


def changes_since(path: Path, settings: Settings) -> list[str]:
    """Returns which flags differ from a flag file's, among those that change the result of a run.

    A flag that the file does not have was added to the library later; its default keeps what the
    library did before.

    Args:
        path: A file that `write_flags_file` wrote.
        settings: The present settings, with the learner's defaults.

    Returns:
        One text per flag, such as `--seed: 0 there, 1 now`; empty where the run may continue.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    there = dict(line.removeprefix("--").split("=", 1) for line in lines if "=" in line)
    changes = []
    for name in sorted(there.keys() | TRAIN.keys()):
        flag = TRAIN.get(name)
        if flag is not None and flag.free:
            continue
        before, now = there.get(name, "unset"), "unset"
        if flag is not None:
            default = default_of(name, settings.learner)
            before = as_text(flag.parse(before) if name in there else default)
            now = as_text(settings[name])
        if before != now:
            changes.append(f"--{name}: {before} there, {now} now")
    return changes
