"""What keeps a run going on this machine: MLX's limits, weight streaming, threads."""
