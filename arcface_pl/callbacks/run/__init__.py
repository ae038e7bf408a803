"""What a run does to a Trainer: checkpoints, signals, exact resume, guards, sharding."""
