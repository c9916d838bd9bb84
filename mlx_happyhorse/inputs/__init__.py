"""What a request is made of: prompt, picture, recording, settings."""
