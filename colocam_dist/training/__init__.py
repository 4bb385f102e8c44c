"""Training under DeepSpeed: the two stages, their engine, schedule, checkpoints and run folder."""
