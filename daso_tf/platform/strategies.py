"""Which devices compute a step: one, all of this machine, or those of many machines."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from daso_tf.platform.keras_versions import KERAS_3
from daso_tf.platform.rendezvous import Worker, meet

# What a step fails with on the other workers where one of them is gone.
WORKER_GONE = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
)
_EXAMPLE = (
    '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
)


def make(name: str, wait_seconds: float = 300.0) -> tf.distribute.Strategy:
    """Makes a strategy; with `multi_worker` before TensorFlow has done anything else.

    Args:
        name: a key of `STRATEGIES`.
        wait_seconds: how long to wait for the other workers of `multi_worker`.

    Returns:
        The strategy in whose scope the learner is to be made.

    Raises:
        ValueError: `TF_CONFIG` does not say which workers there are.
        TimeoutError: other workers do not come.
    """
    return STRATEGIES[name](wait_seconds)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes and prints."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.cluster_spec().as_dict():
        return True
    chief_is_apart = "chief" in resolver.cluster_spec().jobs
    return resolver.task_type == "chief" or (not chief_is_apart and resolver.task_id == 0)


def distributed(
    strategy: tf.distribute.Strategy,
    batches_of: Callable[..., tf.data.Dataset],
) -> tf.data.Dataset | tf.distribute.DistributedDataset:
    """Makes batches for `fit`, by a function that takes an `input_context`."""
    if strategy.num_replicas_in_sync == 1:
        return batches_of()
    return strategy.distribute_datasets_from_function(
        lambda context: batches_of(input_context=context)
    )


def check_same(strategy: tf.distribute.Strategy, name: str, value: int) -> None:
    """Refuses to begin where the workers differ in what they have read; all of them wait here.

    Raises:
        ValueError: with what each worker has.
    """
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return
    own = tf.function(
        lambda: strategy.run(lambda: tf.fill([1], tf.constant(value, tf.int64))), autograph=False
    )
    found = np.unique(strategy.gather(own(), axis=0))
    if len(found) > 1:
        raise ValueError(
            f"The workers differ in the {name}: {', '.join(map(str, found))}. All of them need the "
            "same --model_dir, in a folder that they share."
        )


def wait_for_chief(strategy: tf.distribute.Strategy) -> None:
    """Returns once all workers are here: none may leave while the chief has still to write."""
    check_same(strategy, "end", 0)


def _one_device(_) -> tf.distribute.Strategy:
    return tf.distribute.get_strategy()


def _mirrored(_) -> tf.distribute.Strategy:
    """All GPUs of this machine; where there are none, its logical CPU devices, of which it has one
    unless a program has made more of it."""
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def _multi_worker(wait_seconds: float) -> tf.distribute.Strategy:
    worker = worker_from_environment()
    if not KERAS_3:
        # The chief saves alone, and Keras 2's BatchNorm asks all workers where one reads it.
        raise ValueError(
            f"--strategy=multi_worker needs Keras 3, and this is Keras {keras.__version__}. "
            "Install the newest TensorFlow, or share the steps among the GPUs of one machine: "
            "--strategy=mirrored."
        )
    meet(worker, wait_seconds)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    # TensorFlow would only take note of it.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return strategy


STRATEGIES = {"none": _one_device, "mirrored": _mirrored, "multi_worker": _multi_worker}


def worker_from_environment() -> Worker:
    """Returns what `TF_CONFIG` says of the workers of a run and of this one.

    Raises:
        ValueError: with what is missing or wrong there.
    """
    text = os.environ.get("TF_CONFIG")
    if not text:
        raise _unusable("it is not set")
    try:
        config = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        kind, index = task["type"], int(task["index"])
    except (ValueError, KeyError, TypeError) as error:
        raise _unusable(f"it is {text!r} ({type(error).__name__}: {error})") from error
    if not isinstance(cluster, dict) or not set(cluster) <= {"chief", "worker"} or not cluster:
        raise _unusable(f"its cluster is {cluster!r}, and has to be lists of 'chief', 'worker'")
    addresses = [address for job in ("chief", "worker") for address in cluster.get(job, [])]
    for address in addresses:
        if not str(address).rpartition(":")[2].isdecimal():
            raise _unusable(f"{address!r} is not HOST:PORT")
    if not 0 <= index < len(cluster.get(kind, [])):
        raise _unusable(f"its task is {kind} {index}, which its cluster {cluster!r} does not have")
    return Worker(addresses, index + (len(cluster.get("chief", [])) if kind == "worker" else 0))


def _unusable(reason: str) -> ValueError:
    return ValueError(
        f"--strategy=multi_worker needs the environment variable TF_CONFIG, and {reason}. It says "
        f"which workers there are and which of them this is, such as {_EXAMPLE}."
    )
