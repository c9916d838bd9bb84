"""Running on this machine: MLX's limits, weight streaming, threads."""
