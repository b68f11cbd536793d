#!/usr/bin/env bash
# One worker per node:  sbatch --nodes=4 deploy/slurm.sh --flagfile=flags/cifar10_lt.cfg
#
# All nodes must share the folder of the checkout, its .venv (which ./run.sh makes), the data and
# --model_dir. Submit a job that ended early again; it continues from its newest checkpoint.
#SBATCH --job-name=daso_tf
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
# SIGTERM, 120 seconds before the time limit: training saves a checkpoint and exits with code 143.
#SBATCH --signal=TERM@120
set -euo pipefail

port=${DASO_PORT:-22222}
workers=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed "s/.*/\"&:$port\"/" | paste -sd,)
export workers

# SLURM_PROCID, the number of the worker, is only known inside the task.
# shellcheck disable=SC2016
srun --kill-on-bad-exit=1 bash -c '
  export TF_CONFIG="{\"cluster\": {\"worker\": [$workers]},
    \"task\": {\"type\": \"worker\", \"index\": $SLURM_PROCID}}"
  exec .venv/bin/python -m daso_tf.train "$@" --strategy=multi_worker' worker "$@"
