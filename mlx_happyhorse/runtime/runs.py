"""Runs on a thread of their own, which any thread may advance.

MLX's arrays belong to the thread that made them, and servers advance a generator from changing ones. So all
runs are computed on one thread, one after the other; what the caller passed in (noise, progress) is called
where `next` was.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Generator
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from ..errors import RequestError, Stopped
from ..models.blocks import OnBlock
from ..notes import note, told_to

PATIENCE = 5.0  # seconds that a run waits for another which nobody advances
TICK = 0.1  # seconds between two looks at what else may have happened

T = TypeVar("T")


class States(Generic[T]):
    """An iterator over the states of a run, each computed when it is asked for.

    Any thread may advance, stop or close it. One run at a time is under way in a process: another waits for
    it, or is refused with RequestError if nobody advances that one."""

    def __init__(self, start: Callable[[Worker], Generator[T, None, None]], on_block: OnBlock | None = None):
        """`start` is called on the run's thread; `on_block` by whoever advances, after every block."""
        self._worker: Worker = Worker(start, on_block)
        self._turn = threading.Lock()
        weakref.finalize(self, self._worker.end)

    def __iter__(self) -> States[T]:
        return self

    def __next__(self) -> T:
        """Raises Stopped after `stop`, and what the run raises."""
        with self._turn:
            return self._worker.advance()

    def stop(self) -> None:
        """End the run after the block that is being computed; returns at once."""
        self._worker.stopping.set()

    def close(self) -> None:
        """End the run and free what it holds; returns when that is done."""
        self.stop()
        with self._turn:
            self._worker.end()


class Worker:
    """A run, with the questions and answers that pass between its thread and the one that advances it."""

    def __init__(self, start: Callable[[Worker], Generator[Any, None, None]], on_block: OnBlock | None):
        self.start: Callable[[Worker], Generator[Any, None, None]] | None = start
        self.shown = on_block
        self.stopping = threading.Event()
        self.asked: SimpleQueue[bool] = SimpleQueue()  # for the next state, or False: for the end
        self.replies: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        self.answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self.idle_since: float | None = None  # when it began to wait for being asked
        self.begun = self.over = False

    # Of the thread that advances.

    def advance(self) -> Any:
        if self.over:
            raise StopIteration
        try:
            if not self.begun:
                _gate.enter(self)
                self.begun = True
                _thread.do(self._work)
            self.asked.put(True)
            return self._reply()
        except BaseException:
            self.end()
            raise

    def _reply(self) -> Any:
        while True:
            kind, value = self.replies.get()
            if kind == "call":
                self._answer(*value)
            elif kind == "state":
                return value
            else:
                self.over = True
                try:
                    raise StopIteration if value is None else value
                finally:
                    del value  # its traceback would hold this frame, and that the error

    def _answer(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        try:
            self.answers.put((function(*arguments), None))
        except BaseException as error:
            self.answers.put((None, error))

    def end(self) -> None:
        """Wait for the end of what is being computed."""
        self.stopping.set()
        if self.begun and not self.over:
            self.asked.put(False)
            while (reply := self.replies.get())[0] != "end":
                if reply[0] == "call":
                    self.answers.put((None, Stopped()))
        self.over = True

    # Of the runs' thread.

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What `function` returns when the thread that advances calls it; raises what it raises."""
        self.replies.put(("call", (function, arguments)))
        while True:
            try:
                value, error = self.answers.get(timeout=TICK)
            except Empty:
                _check_process()
                continue
            if error is not None:
                raise error
            return value

    def on_block(self, done: int, of: int) -> None:
        """Raises Stopped."""
        self.check()
        if self.shown is not None:
            self.call(self.shown, done, of)

    def check(self) -> None:
        """Raises Stopped."""
        _check_process()
        if self.stopping.is_set():
            raise Stopped()

    def _work(self) -> None:
        try:
            with told_to(lambda message: self.call(note, message)):
                self._run()
        except BaseException as error:
            self.replies.put(("end", error))
        else:
            self.replies.put(("end", None))

    def _run(self) -> None:
        try:
            assert self.start is not None
            states, self.start = self.start(self), None  # what it holds goes with the run
            try:
                while self._is_asked():
                    self.check()
                    self.replies.put(("state", next(states)))
            except StopIteration:
                pass
            finally:
                states.close()
        finally:
            _gate.leave(self)

    def _is_asked(self) -> bool:
        self.idle_since = time.monotonic()
        while True:
            try:
                asked = self.asked.get(timeout=TICK)
            except Empty:
                _check_process()
                continue
            self.idle_since = None
            return asked


class _Gate:
    """Lets one run at a time through: memory is planned for one, and MLX's limits are the process's."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.holder: Worker | None = None

    def enter(self, worker: Worker) -> None:
        """Wait for the run before. Raises RequestError if nobody advances that, and Stopped."""
        with self.changed:
            while self.holder is not None:
                worker.check()
                since = self.holder.idle_since
                if since is not None and time.monotonic() - since > PATIENCE:
                    raise RequestError(
                        "another run in this process has not ended: advance it to its end or close it, "
                        "then begin the next."
                    )
                self.changed.wait(TICK)
            self.holder = worker

    def leave(self, worker: Worker) -> None:
        with self.changed:
            if self.holder is worker:
                self.holder = None
                self.changed.notify_all()


class _Thread:
    """The thread of all runs, begun with the first: MLX 0.32 keeps a thread of the system's for every thread
    that has computed, as long as the process lasts."""

    def __init__(self) -> None:
        self.work: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.thread: threading.Thread | None = None

    def do(self, work: Callable[[], None]) -> None:
        if self.thread is None or not self.thread.is_alive():
            self.work = SimpleQueue()
            self.thread = threading.Thread(target=self._serve, name="happyhorse runs")
            self.thread.start()
        self.work.put(work)

    def _serve(self) -> None:
        with suppress(Stopped):
            while True:
                self._next()()

    def _next(self) -> Callable[[], None]:
        while True:
            try:
                return self.work.get(timeout=TICK)
            except Empty:
                _check_process()


_gate, _thread = _Gate(), _Thread()


def _check_process() -> None:
    """Raises Stopped where the interpreter ends, which waits for its threads."""
    if not threading.main_thread().is_alive():
        raise Stopped()
