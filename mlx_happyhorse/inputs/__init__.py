"""The parts of a request: prompt, picture, recording, settings."""
