#!/usr/bin/env bash
# One worker a node:  sbatch --nodes=4 deploy/slurm.sh --flagfile=flags/cifar10_lt.cfg
#
# The checkout, its .venv (./run.sh makes it), the data and --model_dir lie in a folder that all
# nodes share. A job that ends early goes on where it was when it is submitted again.
#SBATCH --job-name=daso_tf
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
set -euo pipefail

port=${DASO_PORT:-22222}
workers=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed "s/.*/\"&:$port\"/" | paste -sd,)
export workers

# SLURM_PROCID, the worker's number, is known in the task alone.
# shellcheck disable=SC2016
srun --kill-on-bad-exit=1 bash -c '
  export TF_CONFIG="{\"cluster\": {\"worker\": [$workers]},
    \"task\": {\"type\": \"worker\", \"index\": $SLURM_PROCID}}"
  exec .venv/bin/python -m daso_tf.train "$@" --strategy=multi_worker' worker "$@"
