"""The environment of a process that a test starts."""

import os
from pathlib import Path

import tensorflow as tf

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}

# XLA compiles in half of the time or less if it does not optimize machine code. For processes that
# compile whole steps to compare their results within a tolerance; what must be equal bit for bit
# is tested with XLA's own settings. XLA stops at a flag that its version does not know.
_FLAGS = ["--xla_backend_optimization_level=0"]
if tuple(map(int, tf.__version__.split(".")[:2])) >= (2, 21):
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
FAST_XLA = ENVIRONMENT | {"XLA_FLAGS": " ".join(_FLAGS)}
