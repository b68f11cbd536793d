"""Runs the train command in several workers: `train_workers.py COUNT KILLED_AT LOGS [FLAGS]`.

The last worker kills itself before the step KILLED_AT, or not at all if that is -1. Prints the exit
codes of the workers as JSON. The workers are forks, so TensorFlow is imported only once.
"""

import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path

import command

from daso_tf.commands.workers import cluster
from daso_tf.run import run
from daso_tf.run.callbacks import StopAtNonFiniteLoss


def work(variables, log, killed_at, arguments):
    os.environ.update(variables)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(descriptor, stream)

    class Kill(StopAtNonFiniteLoss):
        def on_train_batch_begin(self, batch, logs=None):
            if int(self.model.step.numpy()) == killed_at:
                os.kill(os.getpid(), signal.SIGKILL)

    run.StopAtNonFiniteLoss = Kill
    sys.exit(command.run_train(*arguments))


def main(count, killed_at, logs, *arguments):
    fork = multiprocessing.get_context("fork")
    killed_at = [-1] * (count - 1) + [killed_at]
    workers = [
        fork.Process(
            target=work, args=(variables, logs / f"worker_{i}.txt", killed_at[i], arguments)
        )
        for i, variables in enumerate(cluster(count))
    ]
    for worker in workers:
        worker.start()
    workers[-1].join()
    for worker in workers:
        worker.join(timeout=60)  # seconds after the last one has ended
    print(json.dumps([worker.exitcode for worker in workers]))
    for worker in workers:
        worker.kill()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:])
