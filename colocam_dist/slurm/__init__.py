"""Runs as jobs of a SLURM cluster: checked, submitted, requeued, watched. Nothing here is needed without SLURM.

On the login node ``submission`` makes the jobs and ``states``, ``status`` and ``follow`` look at them; on the nodes
``job`` is what each rank runs, and ``afterwards`` decides, when the ranks have ended, whether the job goes on.
"""
