"""The denoising loop, its sequence of tokens, super-resolution's start, and checks of what comes out."""
