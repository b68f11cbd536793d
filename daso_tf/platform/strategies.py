"""Selects the devices that compute a step: one, all of this machine, or those of many machines."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping

import keras
import numpy as np
import tensorflow as tf

from daso_tf.platform import signals
from daso_tf.platform.keras_versions import KERAS_3
from daso_tf.platform.last_step import LastStep
from daso_tf.platform.rendezvous import Worker, meet

# The errors that a step raises when another worker has stopped.
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


def make(
    name: str,
    wait_seconds: float = 300.0,
    identity: str = "",
    last_step: LastStep | None = None,
) -> tf.distribute.Strategy:
    """Makes a strategy. Build the learner in its scope.

    Make the `multi_worker` strategy before TensorFlow does anything else.

    Args:
        name: A key of `STRATEGIES`.
        wait_seconds: Time to wait for the other workers of `multi_worker`, in seconds.
        identity: A word that all workers of this run have, and no others.
        last_step: What the workers agree on when one of them is told to stop.

    Returns:
        The strategy.

    Raises:
        ValueError: If there is no strategy of that name, or if `multi_worker` finds no usable
            `TF_CONFIG`, or Keras 2, or is refused by the chief.
        TimeoutError: If other workers do not start in time.

    Example:

    >>> make("none").num_replicas_in_sync
    1
    """
    if name not in STRATEGIES:
        raise ValueError(f"There is no strategy {name!r}. Allowed: {', '.join(STRATEGIES)}.")
    return STRATEGIES[name](wait_seconds, identity, last_step or LastStep())


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether this process is the one that writes files and prints.

    Example:

    >>> is_chief(tf.distribute.get_strategy())
    True
    """
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.cluster_spec().as_dict():
        return True
    has_chief_job = "chief" in resolver.cluster_spec().jobs
    return resolver.task_type == "chief" or (not has_chief_job and resolver.task_id == 0)


def distributed(
    strategy: tf.distribute.Strategy,
    batches_of: Callable[..., tf.data.Dataset],
) -> tf.data.Dataset | tf.distribute.DistributedDataset:
    """Makes batches for `fit` under a strategy.

    Args:
        strategy: The strategy of the learner.
        batches_of: Makes the batches. With several replicas it is called once per worker with an
            `input_context`, and must return batches of that worker's rows.

    Returns:
        A data set, distributed if there are several replicas.

    Example:

    >>> batches = distributed(tf.distribute.get_strategy(), lambda: tf.data.Dataset.range(3))
    >>> int(batches.cardinality())
    3
    """
    if strategy.num_replicas_in_sync == 1:
        return batches_of()
    return strategy.distribute_datasets_from_function(
        lambda context: batches_of(input_context=context)
    )


def check_same(strategy: tf.distribute.Strategy, name: str, value: int) -> None:
    """Checks that all workers have read the same value. Every worker waits here for the others.

    Args:
        strategy: The strategy of the learner.
        name: What the value is, for the message.
        value: The value of this worker.

    Raises:
        ValueError: If the workers differ. The message lists their values.
    """
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return
    own = tf.function(
        lambda: strategy.run(lambda: tf.fill([1], tf.constant(value, tf.int64))), autograph=False
    )
    found = np.unique(strategy.gather(own(), axis=0))
    if len(found) > 1:
        raise ValueError(
            f"The workers differ in the {name}: {', '.join(map(str, found))}. Give all of them the "
            "same --model_dir, in a folder that they share."
        )


def wait_for_chief(strategy: tf.distribute.Strategy) -> None:
    """Returns when all workers have called this: none may exit while the chief is writing."""
    check_same(strategy, "end", 0)


def _one_device(*_: object) -> tf.distribute.Strategy:
    return tf.distribute.get_strategy()


def _mirrored(*_: object) -> tf.distribute.Strategy:
    """Uses all GPUs of this machine, or its logical CPU devices if it has no GPU.

    There is one logical CPU device unless the program has configured more.
    """
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def _multi_worker(
    wait_seconds: float, identity: str, last_step: LastStep
) -> tf.distribute.Strategy:
    worker = worker_from_environment()
    if not KERAS_3:
        # Only the chief saves, but Keras 2 reads BatchNorm statistics with a call to all workers.
        raise ValueError(
            f"--strategy=multi_worker needs Keras 3, but Keras {keras.__version__} is installed. "
            "Install the newest TensorFlow, or use the GPUs of one machine with "
            "--strategy=mirrored."
        )
    last_step.connect(meet(worker, wait_seconds, identity))
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    signals.reinstall()
    return strategy


STRATEGIES: Mapping[str, Callable[[float, str, LastStep], tf.distribute.Strategy]] = {
    "none": _one_device,
    "mirrored": _mirrored,
    "multi_worker": _multi_worker,
}


def worker_from_environment() -> Worker:
    """Reads from `TF_CONFIG` which workers a run has and which of them this one is.

    Returns:
        This worker, with the addresses of all workers.

    Raises:
        ValueError: If `TF_CONFIG` is not set or not usable. The message says why.
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
        raise _unusable(f"its cluster is {cluster!r}, but must be lists of 'chief' and 'worker'")
    addresses = [address for job in ("chief", "worker") for address in cluster.get(job, [])]
    for address in addresses:
        if not str(address).rpartition(":")[2].isdecimal():
            raise _unusable(f"{address!r} is not HOST:PORT")
    if not 0 <= index < len(cluster.get(kind, [])):
        raise _unusable(f"its task is {kind} {index}, which is not in its cluster {cluster!r}")
    return Worker(addresses, index + (len(cluster.get("chief", [])) if kind == "worker" else 0))


def _unusable(reason: str) -> ValueError:
    return ValueError(
        f"--strategy=multi_worker needs the environment variable TF_CONFIG, but {reason}. It lists "
        f"the workers and names this one, for example {_EXAMPLE}."
    )
