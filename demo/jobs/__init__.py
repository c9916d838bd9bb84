"""The queue of clips: nothing here knows Gradio."""

from .estimates import Estimate
from .orders import Order, Snapshot
from .queue import Jobs

__all__ = ["Estimate", "Jobs", "Order", "Snapshot"]
