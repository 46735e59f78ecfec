"""The loop that every method runs in: device, run folder, checkpoints, metrics, progress."""
