"""Clips that were asked for, made one after the other by one thread that owns the model.

Nothing of Gradio and no MLX array passes through here: handlers hand over orders and read snapshots.
"""

from __future__ import annotations

import secrets
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mlx_happyhorse.errors import HappyHorseError, Stopped

from .estimates import Estimate, estimate
from .maker import Maker
from .orders import Job, Order, Snapshot
from .waiting import Inputs, WaitingFile

__all__ = ["Estimate", "Jobs", "Order", "Snapshot"]


class Jobs:
    """The queue. All methods may be called from any thread, and none waits for a clip."""

    def __init__(self, folder: Path, verbose: bool = False):
        """`folder` receives the clips, and the file that the waiting jobs are kept in. Raises RequestError
        where it cannot be written."""
        self.folder, self._verbose = folder, verbose
        self._file = WaitingFile(folder)
        self._left = self._file.read()
        self._inputs = Inputs(folder, self._left)
        self._jobs: dict[str, Job] = {}
        self._maker = Maker(folder)
        self._planner = ThreadPoolExecutor(1, "planner")
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="jobs")
        self._thread.start()

    def submit(self, order: Order) -> str:
        """Put an order at the end of the queue and return its job's id. Raises HappyHorseError where its
        picture or recording cannot be kept."""
        job = Job(secrets.token_hex(8), self._inputs.keep(order))
        with self._changed:
            self._jobs[job.id] = job
            self._save()
            self._changed.notify_all()
        return job.id

    def snapshot(self, job: str) -> Snapshot | None:
        with self._changed:
            found = self._jobs.get(job)
            return None if found is None else found.snapshot(self._place(found))

    def all(self) -> list[Snapshot]:
        """Every job of this process, oldest first."""
        with self._changed:
            return [job.snapshot(self._place(job)) for job in self._jobs.values()]

    def stop(self, job: str) -> None:
        """End a job at the next block, or take it out of the queue."""
        with self._changed:
            found = self._jobs.get(job)
            if found is not None:
                found.stop()
                self._save()
                self._changed.notify_all()

    def left_over(self) -> list[Order]:
        """Orders that an earlier process did not finish."""
        with self._changed:
            return list(self._left)

    def resume(self) -> list[str]:
        """Submit what was left over."""
        with self._changed:
            orders, self._left = self._left, []
        return [self.submit(order) for order in orders]

    def discard(self) -> None:
        """Forget what was left over."""
        with self._changed:
            self._left = []
            self._save()

    def estimate(self, order: Order) -> Estimate:
        """What the order would take on this machine."""
        return self._planner.submit(estimate, order).result()

    def close(self) -> None:
        """Stop the job that runs, leave the waiting ones for the next process, and end the thread."""
        with self._changed:
            self._closing = True
            for job in self._jobs.values():
                if job.state == "running":
                    job.stop()
            self._changed.notify_all()
        self._thread.join()
        self._planner.shutdown()

    def _place(self, job: Job) -> int:
        waiting = [other for other in self._jobs.values() if other.state == "queued"]
        return waiting.index(job) + 1 if job in waiting else 0

    def _save(self) -> None:
        self._file.write([*self._left, *(job.order for job in self._jobs.values() if job.is_open)])

    def _work(self) -> None:
        while (job := self._next()) is not None:
            error = self._attempt(job)
            with self._changed:
                job.end(error)
                if not self._closing:
                    self._save()
                self._changed.notify_all()

    def _next(self) -> Job | None:
        """Wait for the oldest job in the queue; None when the queue is closed."""
        with self._changed:
            while not self._closing:
                for job in self._jobs.values():
                    if job.state == "queued":
                        job.state = "running"
                        return job
                self._changed.wait()
            return None

    def _attempt(self, job: Job) -> str | None:
        """Make a job's clip. Return why that failed, so that the next job is unharmed, "" where stopped."""
        try:
            self._maker.make(job)
        except Stopped:
            return ""
        except HappyHorseError as error:
            return str(error)
        except Exception as error:
            if self._verbose:
                traceback.print_exc()
            return f"{type(error).__name__}: {error}"
        return None
