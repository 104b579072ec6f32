#!/bin/bash
# Trains on two nodes with four GPUs each: sbatch configs/slurm.sh configs/regression/mean_field_vi.yaml
#SBATCH --job-name=lightning-vi
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=02:00:00
#SBATCH --signal=SIGUSR1@90

set -euo pipefail
export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK

srun lightning-vi fit --config "$1" \
  --trainer.accelerator=gpu --trainer.devices=4 --trainer.num_nodes=2 --trainer.strategy=ddp
