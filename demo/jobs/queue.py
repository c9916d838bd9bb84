"""The queue of clips: one thread owns the model and runs the jobs one after the other.

Callers submit orders and read snapshots. No MLX array leaves this thread: arrays are bound to their thread.
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
from .waiting import InputFiles, QueueFile

__all__ = ["Estimate", "Jobs", "Order", "Snapshot"]


class Jobs:
    """The queue. Any thread may call its methods, and none of them waits for a clip."""

    def __init__(self, folder: Path, verbose: bool = False):
        """Save clips and the queue's own file in `folder`. Raises RequestError if it is not writable."""
        self.folder, self._verbose = folder, verbose
        self._file = QueueFile(folder)
        self._unfinished = self._file.read()
        self._inputs = InputFiles(folder, self._unfinished)
        self._jobs: dict[str, Job] = {}
        self._maker = Maker(folder)
        self._planner = ThreadPoolExecutor(1, "planner")
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="jobs")
        self._thread.start()

    def submit(self, order: Order) -> str:
        """Append an order to the queue and return its job's id. Raises HappyHorseError if its first frame or
        voice cannot be copied."""
        job = Job(secrets.token_hex(8), self._inputs.keep(order))
        with self._changed:
            self._jobs[job.id] = job
            self._save()
            self._changed.notify_all()
        return job.id

    def snapshot(self, job: str) -> Snapshot | None:
        """Return a job as it is now; None if this process has no job of this id."""
        with self._changed:
            found = self._jobs.get(job)
            return None if found is None else found.snapshot(self._place(found))

    def snapshots(self) -> list[Snapshot]:
        """Return every job of this process, oldest first."""
        with self._changed:
            return [job.snapshot(self._place(job)) for job in self._jobs.values()]

    def stop(self, job: str) -> None:
        """Stop a job at the next block, or remove it from the queue."""
        with self._changed:
            found = self._jobs.get(job)
            if found is not None:
                found.stop()
                self._save()
                self._changed.notify_all()

    def unfinished(self) -> list[Order]:
        """Return the orders that an earlier process did not finish."""
        with self._changed:
            return list(self._unfinished)

    def resume(self) -> list[str]:
        """Submit the unfinished orders of an earlier process and return their jobs' ids."""
        with self._changed:
            orders, self._unfinished = self._unfinished, []
        return [self.submit(order) for order in orders]

    def discard(self) -> None:
        """Forget the unfinished orders of an earlier process."""
        with self._changed:
            self._unfinished = []
            self._save()

    def estimate(self, order: Order) -> Estimate:
        """Return the memory and time that an order takes on this machine."""
        return self._planner.submit(estimate, order).result()

    def close(self) -> None:
        """Stop the running job and end the thread. Queued jobs stay in the file for the next process."""
        with self._changed:
            self._closing = True
            for job in self._jobs.values():
                if job.state == "running":
                    job.stop()
            self._changed.notify_all()
        self._thread.join()
        self._planner.shutdown()

    def _place(self, job: Job) -> int:
        queued = [other for other in self._jobs.values() if other.state == "queued"]
        return queued.index(job) + 1 if job in queued else 0

    def _save(self) -> None:
        self._file.write([*self._unfinished, *(job.order for job in self._jobs.values() if job.is_open)])

    def _work(self) -> None:
        while (job := self._next()) is not None:
            error = self._run(job)
            with self._changed:
                job.end(error)
                if not self._closing:
                    self._save()
                self._changed.notify_all()

    def _next(self) -> Job | None:
        """Wait for the oldest job in the queue; return None once the queue is closed."""
        with self._changed:
            while not self._closing:
                for job in self._jobs.values():
                    if job.state == "queued":
                        job.state = "running"
                        return job
                self._changed.wait()
            return None

    def _run(self, job: Job) -> str | None:
        """Generate a job's clip. Return None on success, "" if it was stopped, else the error."""
        try:
            self._maker.make(job)
        except Stopped:
            return ""
        except HappyHorseError as error:
            return str(error)
        except Exception as error:  # a defect fails this job, but the thread must survive for the next
            if self._verbose:
                traceback.print_exc()
            return f"{type(error).__name__}: {error}"
        return None
