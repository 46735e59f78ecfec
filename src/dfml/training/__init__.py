"""What all methods share: the loop, device, run folder, checkpoints, metrics, progress, and memories of images."""
