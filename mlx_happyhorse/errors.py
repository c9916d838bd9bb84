"""What can go wrong in a way that a person can mend; the messages are meant for that person."""


class HappyHorseError(Exception):
    """Base of the package's own errors."""


class RequestError(HappyHorseError, ValueError):
    """What was asked for is impossible as asked."""


class ModelError(HappyHorseError):
    """A model's files are missing, damaged or of another kind."""


class HubError(HappyHorseError):
    """The Hub cannot be reached, or does not give what was asked for."""


class Stopped(HappyHorseError):
    """Ended because it was told to; nothing went wrong."""

    def __init__(self, message: str = "stopped."):
        super().__init__(message)
