"""The names of a run's stages, in their order."""

from enum import StrEnum


class StageName(StrEnum):
    TEXT = "text"  # encode the prompts
    VOICE = "voice"  # encode a given recording
    IMAGE = "image"  # encode the first frame
    DENOISE = "denoise"
    UPSCALE = "upscale"
    SOUND = "sound"  # decode the audio latents
    PICTURE = "picture"  # decode the video latents
    SAVE = "save"  # encode H.264 and AAC
