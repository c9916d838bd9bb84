"""A model's stages, one after the other, from a request to a clip."""
