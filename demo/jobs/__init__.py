"""The queue of clips, without any Gradio."""

from .estimates import Estimate
from .orders import Order, Snapshot
from .queue import Jobs

__all__ = ["Estimate", "Jobs", "Order", "Snapshot"]
