"""Write model folders: quantization, shards, journal, model card."""
