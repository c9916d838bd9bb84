"""Runs and the threads that advance them: one at a time, from any thread, stopped at any block."""

import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import anyio.to_thread
import mlx.core as mx
import numpy as np
import pytest
from helpers.models import golden_model

from mlx_happyhorse import HappyHorse, RequestError
from mlx_happyhorse.errors import Stopped
from mlx_happyhorse.notes import listening
from mlx_happyhorse.runtime import runs
from mlx_happyhorse.runtime.memory import WINOGRAD

SMALL = {"seconds": 0.2, "width": 64, "height": 32, "steps": 2}
pytestmark = pytest.mark.filterwarnings("ignore:tiny")


@pytest.fixture(scope="module")
def tiny():
    return HappyHorse.load("tiny")


@pytest.fixture
def limits():
    """MLX's limits, which must be afterwards as before."""
    import os

    found = lambda: (mx.set_cache_limit(mx.set_cache_limit(0)), os.environ.get(WINOGRAD))  # noqa: E731
    before = found()
    yield
    assert found() == before


def test_a_run_is_advanced_by_changing_threads(tiny, limits):
    expected = {seed: tiny.generate("a ball", seed=seed, **SMALL) for seed in (1, 2)}

    async def use(seed):
        states = tiny.stream("a ball", seed=seed, **SMALL)
        while (state := await anyio.to_thread.run_sync(next, states, None)) is not None:
            await anyio.sleep(0.001 * seed)
            clips[seed] = state.clip

    async def both():
        async with anyio.create_task_group() as users:
            for seed in expected:
                users.start_soon(use, seed)

    clips = {}
    anyio.run(both)
    for seed, clip in expected.items():
        assert np.array_equal(clips[seed].video, clip.video)
        assert np.array_equal(clips[seed].audio, clip.audio)


def test_threads_that_generate_take_turns(tiny, limits):
    expected = {seed: tiny.generate("a ball", seed=seed, **SMALL).video for seed in range(3)}
    with ThreadPoolExecutor(3) as pool:
        clips = list(pool.map(lambda seed: tiny.generate("a ball", seed=seed, **SMALL), [0, 1, 2, 0, 1, 2]))
    for seed, clip in zip([0, 1, 2, 0, 1, 2], clips, strict=True):
        assert np.array_equal(clip.video, expected[seed])


@pytest.mark.parametrize("low_ram", [False, True])
def test_a_run_stops_at_the_next_block(low_ram, limits):
    horse = HappyHorse.load("tiny", low_ram=low_ram)
    seen = []

    def stop_at_the_second(done, of):
        seen.append((done, of))
        if len(seen) == 2:
            threading.Thread(target=states.stop).start()
            time.sleep(0.1)

    states = horse.stream("a ball", on_block=stop_at_the_second, **SMALL)
    assert [next(states).stage for _ in range(3)][-1] == "denoise"
    seen.clear()
    with pytest.raises(Stopped):
        next(states)
    assert seen == [(1, 4), (2, 4)]
    assert list(states) == []
    assert mx.get_active_memory() < 1e6


def test_blocks_are_counted_over_both_passes_of_guidance():
    horse, seen = golden_model("base"), []
    settings = {"seconds": 0.2, "width": 64, "height": 64, "steps": 2, "guidance": 3}
    states = horse.stream("a ball", on_block=lambda *count: seen.append(count), seed=1, **settings)
    for state in states:
        if state.stage == "denoise" and state.step == 0:
            seen.clear()
        if state.stage == "denoise" and state.step == 1:
            break
    count = len(seen)
    assert seen == [(i + 1, count) for i in range(count)] and count > 2 and count % 2 == 0


def test_noise_and_progress_are_asked_of_the_thread_that_advances(tiny):
    threads = set()

    def draw(shape):
        threads.add(threading.get_ident())
        return mx.random.normal(shape)

    mx.random.seed(5)
    first = tiny.generate(
        "a ball", draw=draw, on_block=lambda *_: threads.add(threading.get_ident()), **SMALL
    )
    assert threads == {threading.get_ident()}
    mx.random.seed(5)
    assert np.array_equal(tiny.generate("a ball", draw=draw, **SMALL).video, first.video)


def test_what_progress_raises_ends_the_run(tiny, limits):
    with pytest.raises(ZeroDivisionError):
        tiny.generate("a ball", on_block=lambda done, of: done // 0, **SMALL)
    assert tiny.generate("a ball", **SMALL).video.size


def test_a_run_beside_one_that_nobody_advances_is_refused(tiny, monkeypatch):
    monkeypatch.setattr(runs, "PATIENCE", 0.2)
    idle = tiny.stream("a ball", **SMALL)
    next(idle)
    with pytest.raises(RequestError, match="another run in this process has not ended"):
        tiny.generate("a cube", **SMALL)
    idle.close()
    assert tiny.generate("a cube", **SMALL).video.size


def test_a_waiting_run_can_be_stopped(tiny):
    idle, waiting = tiny.stream("a ball", **SMALL), tiny.stream("a cube", **SMALL)
    next(idle)
    threading.Timer(0.2, waiting.stop).start()
    with pytest.raises(Stopped):
        next(waiting)
    idle.close()


def test_a_run_that_is_dropped_is_over(tiny, limits):
    states = tiny.stream("a ball", **SMALL)
    next(states)
    del states
    assert tiny.generate("a cube", **SMALL).video.size


@pytest.mark.skipif(sys.platform != "linux", reason="threads of the system are counted in /proc")
def test_runs_leave_no_threads(tiny):
    def threads():
        return len(list(Path("/proc/self/task").iterdir()))

    tiny.generate("a ball", **SMALL)
    before = threads()
    for _ in range(3):
        tiny.generate("a ball", **SMALL)
    assert threads() == before


def test_notes_reach_the_listener_of_the_thread_that_advances(tiny):
    heard = []
    with listening(heard.append):
        tiny.generate("ball " * 700, **SMALL)
    assert any("the model reads 640" in line for line in heard)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tiny.generate("ball " * 701, **SMALL)
    about = [w for w in caught if "the model reads 640" in str(w.message)]
    assert about and about[0].filename == __file__


def test_arrays_of_another_thread_are_refused_in_words(tiny):
    noise = {"text": mx.ones((3, 64)), "video": mx.ones((2, 4, 4, 48)), "audio": mx.ones((5, 64))}
    with (
        ThreadPoolExecutor(1) as pool,
        pytest.raises(RequestError, match="started on another thread"),
    ):
        pool.submit(next, tiny.denoise(**noise, draw=mx.random.normal)).result()


def test_a_program_that_ends_in_the_middle_of_a_run_ends():
    script = (
        "from mlx_happyhorse import HappyHorse\n"
        f"states = HappyHorse.load('tiny').stream('a ball', **{SMALL!r})\n"
        "print(next(states).stage)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.returncode) == ("text\n", 0), done.stderr
