"""Runs on a shared thread, which any other thread may advance.

MLX's arrays belong to the thread that made them, and servers advance a generator from changing threads. So
all runs are computed on one thread, one after the other; the caller's own functions (noise, progress) are
called on the thread that called `next`.
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
from ..notes import listening, note

PATIENCE = 5.0  # seconds that a run waits for another that nobody advances
TICK = 0.1  # seconds between checks for a stop or the end of the process

T = TypeVar("T")


class States(Generic[T]):
    """An iterator over the states of a run, each computed when it is asked for.

    Any thread may advance, stop or close it. A process computes one run at a time: the next waits for it, or
    raises RequestError if nobody advances that one."""

    def __init__(self, start: Callable[[Worker], Generator[T, None, None]], on_block: OnBlock | None = None):
        """Call `start` on the runs' thread, and `on_block` on the advancing one, after every block."""
        self._worker: Worker = Worker(start, on_block)
        self._turn = threading.Lock()
        weakref.finalize(self, self._worker.end)

    def __iter__(self) -> States[T]:
        return self

    def __next__(self) -> T:
        """Return the next state. Raise Stopped after `stop`, and what the run raises."""
        with self._turn:
            return self._worker.advance()

    def stop(self) -> None:
        """End the run after the current block; return at once."""
        self._worker.stopping.set()

    def close(self) -> None:
        """End the run, and return when its memory is free."""
        self.stop()
        with self._turn:
            self._worker.end()


class Worker:
    """A run, and the queues between the runs' thread and the thread that advances it."""

    def __init__(self, start: Callable[[Worker], Generator[Any, None, None]], on_block: OnBlock | None):
        self.start: Callable[[Worker], Generator[Any, None, None]] | None = start
        self.shown = on_block
        self.stopping = threading.Event()
        self.asked: SimpleQueue[bool] = SimpleQueue()  # True: the next state; False: the end
        self.replies: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        self.answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self.idle_since: float | None = None  # when it began to wait for a request
        self.started = self.ended = False

    # Called on the advancing thread.

    def advance(self) -> Any:
        if self.ended:
            raise StopIteration
        try:
            if not self.started:
                _gate.enter(self)
                self.started = True
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
                self.ended = True
                try:
                    raise StopIteration if value is None else value
                finally:
                    del value  # a cycle otherwise: its traceback refers to this frame, and that to the error

    def _answer(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        try:
            self.answers.put((function(*arguments), None))
        except BaseException as error:
            self.answers.put((None, error))

    def end(self) -> None:
        """End the run, and wait until the current block is done."""
        self.stopping.set()
        if self.started and not self.ended:
            self.asked.put(False)
            while (reply := self.replies.get())[0] != "end":
                if reply[0] == "call":
                    self.answers.put((None, Stopped()))
        self.ended = True

    # Called on the runs' thread.

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call `function` on the advancing thread; return or raise what it does."""
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
        """Raise Stopped after `stop`."""
        self.check()
        if self.shown is not None:
            self.call(self.shown, done, of)

    def check(self) -> None:
        """Raise Stopped after `stop`."""
        _check_process()
        if self.stopping.is_set():
            raise Stopped()

    def _work(self) -> None:
        try:
            with listening(lambda message: self.call(note, message)):
                self._run()
        except BaseException as error:
            self.replies.put(("end", error))
        else:
            self.replies.put(("end", None))

    def _run(self) -> None:
        try:
            assert self.start is not None
            states, self.start = self.start(self), None  # frees what it refers to at the end of the run
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
    """Admits one run at a time: memory is planned for one, and MLX's limits apply to the process."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.holder: Worker | None = None

    def enter(self, worker: Worker) -> None:
        """Wait for the previous run. Raise RequestError if nobody advances that, and Stopped."""
        with self.changed:
            while self.holder is not None:
                worker.check()
                since = self.holder.idle_since
                if since is not None and time.monotonic() - since > PATIENCE:
                    raise RequestError(
                        "another run in this process has not ended: advance it to its end or close it, "
                        "then start the next."
                    )
                self.changed.wait(TICK)
            self.holder = worker

    def leave(self, worker: Worker) -> None:
        with self.changed:
            if self.holder is worker:
                self.holder = None
                self.changed.notify_all()


class _Thread:
    """The thread of all runs, started with the first: MLX 0.32 keeps a system thread for every thread that
    has computed, as long as the process lasts."""

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
    """Raise Stopped where the interpreter is exiting, which waits for its threads."""
    if not threading.main_thread().is_alive():
        raise Stopped()
