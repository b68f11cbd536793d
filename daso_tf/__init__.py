"""Semi-supervised learning on imbalanced data, for TensorFlow and Keras."""

from daso_tf.platform import quiet, signals

__version__ = "0.2.0"

if quiet.is_command():
    signals.watch()
# To import the library takes seconds. A command does so where it needs it, and help does not.
if not quiet.is_command() or quiet.is_in_folder():
    from daso_tf import library
    from daso_tf.library import *  # noqa: F403

    __all__ = library.__all__
