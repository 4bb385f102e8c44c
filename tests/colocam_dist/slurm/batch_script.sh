#!/bin/bash

# Parameters
#SBATCH --account=vision
#SBATCH --chdir='/home/me/a project'
#SBATCH --constraint='a100&ib'
#SBATCH --cpus-per-task=4
#SBATCH --dependency=afterok:41
#SBATCH --error=/runs/full/slurm/jobs/%j_0_log.err
#SBATCH --exclusive
#SBATCH --gpus-per-node=4
#SBATCH --job-name=full
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --mail-user=a@b.org
#SBATCH --mem=246272MB
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --open-mode=append
#SBATCH --output=/runs/full/slurm/jobs/%j_0_log.out
#SBATCH --partition=gpu
#SBATCH --qos=high
#SBATCH --requeue
#SBATCH --reservation=night
#SBATCH --signal=USR2@180
#SBATCH --time=480

# setup
module load cuda
ulimit -n 65536
export PYTHONUNBUFFERED=1
export OMP_NUM_THREADS=2
export NCCL_DEBUG=INFO
export DATA='a folder'
export PYTHONPATH=/runs/full/slurm/code${PYTHONPATH:+:$PYTHONPATH}
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"
cd /runs/full/slurm
set +eu
export SLURM_EXPORT_ENV=ALL

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /runs/full/slurm/jobs/%j_%t_log.out --error /runs/full/slurm/jobs/%j_%t_log.err --kill-on-bad-exit=1 --cpu-bind=verbose /opt/env/bin/python -u -m submitit.core._submit /runs/full/slurm/jobs


# teardown
code=$?
id=$SLURM_JOB_ID
if [ -n "$SLURM_ARRAY_TASK_ID" ]; then id=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi
try() {
  for pause in 5 10 20 60 60 60 60 60 60 60 60 60 60 0; do
    "$@" && return
    if [ "$pause" = 60 ]; then case "$(scontrol ping 2> /dev/null)" in *"is UP"*) "$@"; return ;; esac; fi
    sleep "$pause"
  done
  return 1
}
job=$(try scontrol show job --oneliner "$id")
/opt/env/bin/python -m colocam_dist.slurm.afterwards /runs/full --part 1 --code "$code" --id "$id" --job "$job"
verdict=$?
if [ "$verdict" -eq 85 ]; then try scontrol requeue "$id" || echo "it could not be requeued"; fi
exit "$verdict"
