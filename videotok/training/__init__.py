"""Training: the data and its split, the loop of all models, checkpoints, synthetic videos."""
