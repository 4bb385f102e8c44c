"""Searches over the settings of runs by Ray Tune: on one machine, in one allocation, or with a job for each trial."""
