"""Runs the train command in several workers: `train_workers.py COUNT STEP SIGNAL LOGS [FLAGS]`.

The last worker sends itself a signal before a step, or not at all if that is -1. Prints the exit
codes of the workers as JSON. The workers are forks, so TensorFlow is imported only once.
"""

import json
import multiprocessing
import os
import sys
from pathlib import Path

import command

from daso_tf.commands.workers import cluster
from daso_tf.run import run
from daso_tf.run.callbacks import StopAtNonFiniteLoss


def work(variables, log, step, number, arguments):
    os.environ.update(variables)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(descriptor, stream)

    class Send(StopAtNonFiniteLoss):
        def on_train_batch_begin(self, batch, logs=None):
            if int(self.model.step.numpy()) == step:
                os.kill(os.getpid(), number)

    run.StopAtNonFiniteLoss = Send
    sys.exit(command.run_train(*arguments))


def main(count, step, number, logs, *arguments):
    fork = multiprocessing.get_context("fork")
    steps = [-1] * (count - 1) + [step]
    workers = [
        fork.Process(
            target=work, args=(variables, logs / f"worker_{i}.txt", steps[i], number, arguments)
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
    main(*map(int, sys.argv[1:4]), Path(sys.argv[4]), *sys.argv[5:])
