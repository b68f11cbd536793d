"""The settings of a run, read from its folder by the commands that work on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from absl import flags

from daso_tf.settings.flags import TRAIN, complete
from daso_tf.settings.settings import Settings, parse


def settings_of(model_dir: Path, **changed: Any) -> Settings:
    """Returns the settings of a run, on one device.

    Args:
        model_dir: The folder of the run; it may have been moved.
        **changed: Settings that differ from its flag file.

    Returns:
        The settings, completed. The folder of the export is still that of the run.

    Raises:
        ValueError: If it is no folder of a run, or its flag file is damaged.
    """
    path = model_dir / "flags.cfg"
    if not path.is_file():
        raise ValueError(f"{model_dir} is no folder of a training run: it has no flags.cfg.")
    try:
        of_run, _ = parse([f"--flagfile={path}"], TRAIN.values())
    except (flags.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be used: {error}") from error
    if of_run.export_dir == f"{of_run.model_dir}/export":  # the folder may have been moved
        of_run = of_run.replace(export_dir=None)
    # One device is enough, and the other workers of the run need not be there.
    of_one = {"model_dir": str(model_dir), "strategy": "none", "device_data": False}
    return complete(of_run.replace(**changed, **of_one))
