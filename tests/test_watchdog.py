"""A command that macOS ends for taking too long costs a pass, not the clip. The errors are put in here."""

import json
import warnings
from dataclasses import replace

import mlx.core as mx
import pytest
from helpers.golden_cases import distance

from mlx_happyhorse import HappyHorse
from mlx_happyhorse.cli import main
from mlx_happyhorse.diffusion.sampling import Velocity
from mlx_happyhorse.errors import OutOfResources
from mlx_happyhorse.models import transformer
from mlx_happyhorse.models.matmul import Work
from mlx_happyhorse.models.transformer import Transformer, TransformerConfig
from mlx_happyhorse.planning import costs
from mlx_happyhorse.planning.costs import Arithmetic, Tokens
from mlx_happyhorse.planning.hardware import MLP_ROWS
from mlx_happyhorse.runtime import watchdog
from mlx_happyhorse.runtime.memory import explain_errors
from mlx_happyhorse.runtime.watchdog import SMALLEST, is_watchdog, keep_share, share
from mlx_happyhorse.storage import weights

FAILED = "[METAL] Command buffer execution failed: "
TIMEOUT = f"{FAILED}Caused GPU Timeout Error (00000002:kIOGPUCommandBufferCallbackErrorTimeout)."
INTERACTIVITY = (
    f"{FAILED}Impacting Interactivity (0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)."
)
HANG = f"{FAILED}Caused GPU Hang Error (00000003:kIOGPUCommandBufferCallbackErrorHang)."
MEMORY = f"{FAILED}Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)."
ALWAYS = 1000

pytestmark = pytest.mark.filterwarnings("ignore:tiny")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HAPPYHORSE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


class Struck:
    """Attention whose command fails so many times, each time when it has done `after` since the last."""

    def __init__(self, monkeypatch, times, said=TIMEOUT, after=10):
        self.times, self.said, self.after, self.done = times, said, after, 0
        self.queries = []  # of every dispatch; None is a failure
        self.attend = transformer.attend
        monkeypatch.setattr(transformer, "attend", self)

    def __call__(self, q, k, v):
        self.done += 1
        if self.times > self.failures and self.done > self.after:
            self.done = 0
            self.queries.append(None)
            raise RuntimeError(self.said)
        self.queries.append(len(q))
        return self.attend(q, k, v)

    @property
    def failures(self):
        return self.queries.count(None)


def splitting(streamed=False):
    """Tiny on a machine so slow that it is given 7 tokens at a time."""
    horse = HappyHorse.load("tiny", low_ram=streamed)
    horse.machine = replace(horse.machine, chip=replace(horse.machine.chip, tflops=1e-6))
    return horse


def normal(*shape, seed=0):
    return mx.random.normal(shape, key=mx.random.key(seed))


def run(stage, horse):
    """The latents after two steps with guidance: four passes."""
    text, negative = normal(5, 64, seed=1), normal(4, 64, seed=2)
    video, audio = normal(3, 4, 6, 48, seed=3), normal(9, 64, seed=4)
    asked = {"steps": 2, "negative_text": negative, "guidance": 3.0, "draw": lambda s: normal(*s, seed=5)}
    if stage == "upscale":
        asked |= {"to": "540p", "width": 128, "height": 96}
    *_, last = getattr(horse, stage)(text, video, audio, **asked)
    return last.video, last.audio


def said(caught):
    return [str(w.message) for w in caught if "macOS" in str(w.message)]


@pytest.mark.parametrize("message", [TIMEOUT, INTERACTIVITY])
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("stage", ["denoise", "upscale"])
def test_a_pass_is_begun_again_with_half_the_work(monkeypatch, stage, streamed, times, message):
    expected = run(stage, splitting(streamed))
    struck = Struck(monkeypatch, times, message)
    with pytest.warns(UserWarning, match="macOS ended a command") as caught:
        made = run(stage, splitting(streamed))
    assert struck.failures == times and len(said(caught)) == times
    for ours, theirs in zip(made, expected, strict=True):
        assert distance(ours, theirs) <= 1e-5
    first, last = struck.queries.index(None), len(struck.queries) - struck.queries[::-1].index(None)
    assert max(struck.queries[last:]) <= 0.5**times * max(struck.queries[:first]) + 1
    assert share() == 0.5**times


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("after", [0, 21, 50])
def test_it_may_strike_anywhere(monkeypatch, streamed, after):
    """At once, as the first pass ends, in the middle of the third."""
    expected = run("denoise", splitting(streamed))
    struck = Struck(monkeypatch, 1, after=after)
    with pytest.warns(UserWarning, match="1/2 of the usual work"):
        made = run("denoise", splitting(streamed))
    assert struck.failures == 1
    assert all(distance(ours, theirs) <= 1e-5 for ours, theirs in zip(made, expected, strict=True))


def test_the_smaller_work_is_what_later_networks_and_runs_begin_with(monkeypatch):
    horse = splitting()
    usual = horse._load("transformer").work
    Struck(monkeypatch, 1)
    with pytest.warns(UserWarning, match="display sleep, close other programs, .*AGX_RELAX_CDM"):
        run("denoise", horse)
    for later in (horse._load("upscaler_540p"), splitting()._load("transformer")):
        assert later.work == usual.times(0.5)
    with warnings.catch_warnings(action="error"):
        run("denoise", splitting())


def test_a_third_failure_ends_the_run_in_words_and_leaves_nothing(monkeypatch):
    horse = splitting(streamed=True)
    expected = run("denoise", horse)
    before = mx.get_active_memory()
    with monkeypatch.context() as patch:
        struck = Struck(patch, ALWAYS)
        with pytest.warns(UserWarning) as caught, pytest.raises(OutOfResources) as raised:
            run("denoise", horse)
    for advice in ("display sleep", "close other programs", "AGX_RELAX_CDM_CTXSTORE_TIMEOUT=1"):
        assert advice in str(raised.value)
    assert struck.failures == 3 and len(said(caught)) == 2
    del raised, caught
    assert mx.get_active_memory() - before < 10_000
    again = run("denoise", splitting(streamed=True))
    assert all(distance(ours, theirs) <= 1e-5 for ours, theirs in zip(again, expected, strict=True))


def test_a_failed_run_leaves_no_error_to_the_next(monkeypatch):
    left = [f"{FAILED}Discarded (victim of GPU error/recovery)."]

    def synchronize():
        if left:
            raise RuntimeError(left.pop())

    monkeypatch.setattr(mx, "synchronize", synchronize)
    with pytest.raises(OutOfResources, match="picture: macOS ended it"), explain_errors("picture"):
        raise RuntimeError(TIMEOUT)
    assert not left


@pytest.mark.parametrize("message", [MEMORY, "no idea"])
def test_other_errors_are_not_tried_again(monkeypatch, message):
    struck = Struck(monkeypatch, ALWAYS, message)
    with warnings.catch_warnings(action="error"), pytest.raises((OutOfResources, RuntimeError)):
        run("denoise", splitting())
    assert struck.failures == 1 and share() == 1


def test_an_error_reported_after_the_pass_counts_as_its_own(monkeypatch):
    expected = run("denoise", splitting())
    errors = [TIMEOUT, f"{FAILED}Discarded (victim of GPU error/recovery)."]  # what follows is no new failure
    wait = mx.synchronize

    def synchronize(*stream):
        wait(*stream)
        if errors and not stream:
            raise RuntimeError(errors.pop(0))

    monkeypatch.setattr(mx, "synchronize", synchronize)
    with pytest.warns(UserWarning, match="repeated with") as caught:
        made = run("denoise", splitting())
    assert not errors and len(said(caught)) == 1
    assert all(distance(ours, theirs) <= 1e-5 for ours, theirs in zip(made, expected, strict=True))


def test_weights_are_computed_before_a_command_that_may_fail(monkeypatch):
    """MLX takes what was part of a failed command for computed."""
    model = HappyHorse.load("tiny", dtype=mx.float16)._load("transformer")
    size = sum(tensor.nbytes for tensor in weights.parameters(model).values())
    before, held = mx.get_active_memory(), []
    call = Transformer.__call__

    def watch(*args):
        held.append(mx.get_active_memory() - before)
        return call(*args)

    monkeypatch.setattr(Transformer, "__call__", watch)
    Velocity(model)(normal(3, 4, 6, 48), normal(9, 64), normal(5, 64))
    assert held[0] >= size


def test_a_streamed_network_is_read_from_its_beginning_again(monkeypatch):
    """What it held of the middle would take memory beside what is read now, and nothing be read ahead."""
    model = splitting()._load("transformer", streamed=True)
    call, held = Transformer.__call__, []

    def watch(*args):
        held.append(len(model.offload.__self__.resident))
        return call(*args)

    monkeypatch.setattr(Transformer, "__call__", watch)
    Struck(monkeypatch, 1)
    with pytest.warns(UserWarning, match="macOS"):
        Velocity(model)(normal(3, 4, 6, 48), normal(9, 64), normal(5, 64))
    assert held == [0, 0]


def test_a_streamed_network_holds_nothing_of_a_broken_pass(monkeypatch):
    model = splitting()._load("transformer", streamed=True)
    streamer = model.offload.__self__
    inputs = normal(3, 4, 6, 48), normal(9, 64), normal(5, 64)
    with monkeypatch.context() as patch:
        Struck(patch, ALWAYS, "no idea")
        with pytest.raises(RuntimeError, match="no idea"):
            Velocity(model)(*inputs)
    assert streamer.resident
    model.restart()
    before = mx.get_active_memory()
    assert not streamer.resident
    Velocity(model)(*inputs)
    model.restart()
    assert mx.get_active_memory() - before < 10_000


def test_the_command_line_says_so_once_for_every_retry(in_empty_folder, monkeypatch, capsys):
    Struck(monkeypatch, 2, after=3)
    words = ["generate", "x", "--seconds", "0.36", "--width", "64", "--height", "32", "--steps", "1"]
    assert main(words) == 0
    err = capsys.readouterr().err
    assert err.count("macOS ended a command") == 2
    assert "repeated with 1/2 of" in err and "repeated with 1/4 of" in err


@pytest.mark.parametrize(
    ("kept", "used"), [(0.25, 0.25), (0.001, SMALLEST), (1, 1), (0, 1), (-1, 1), (2, 1), ("x", 1), (None, 1)]
)
def test_only_a_share_is_believed(home, kept, used):
    home.mkdir()
    watchdog.file().write_text(json.dumps({watchdog._machine(): kept, "another": 0.125}))
    assert share() == used


@pytest.mark.parametrize("text", ["", "[]", '{"x": ', "[" * 100_000, "\x00", '{"x": NaN}'])
def test_a_damaged_file_is_no_share(home, text):
    home.mkdir()
    watchdog.file().write_text(text.replace("x", watchdog._machine()))
    assert share() == 1
    keep_share(0.5)
    assert share() == 0.5


def test_shares_shrink_and_stay_apart_by_machine(home, monkeypatch):
    for value in (0.5, 1, 0.25, 0.5):
        keep_share(value)
    assert share() == 0.25
    monkeypatch.setattr(mx, "device_info", lambda: {"device_name": "Apple M9"})
    assert share() == 1


def test_a_disk_that_cannot_be_written_is_no_reason_to_fail(home):
    home.write_text("a file where the folder would be")
    keep_share(0.5)
    assert share() == 1


def test_work_does_not_shrink_without_end(monkeypatch):
    keep_share(SMALLEST)
    usual = splitting().machine.work()
    struck = Struck(monkeypatch, 2, after=0)
    horse = splitting()
    horse.machine = replace(horse.machine, chip=replace(horse.machine.chip, tflops=1e-4))
    with pytest.warns(UserWarning, match=f"1/{round(1 / SMALLEST)} of the usual work"):
        run("denoise", horse)
    assert struck.failures == 2 and share() == SMALLEST
    assert usual.times(SMALLEST).flops == usual.flops * SMALLEST


@pytest.mark.parametrize("value", [0.5, 0.25, SMALLEST])
@pytest.mark.parametrize(
    "how", [Arithmetic(4, False, True), Arithmetic(2, False, False), Arithmetic(2, True, False)], ids=str
)
def test_less_work_at_a_time_never_takes_more_memory(value, how):
    config = TransformerConfig()
    for tokens in (Tokens(4000, 126, 200, 32), Tokens(60_000, 251, 640, 63)):
        usual = Work(1e12, MLP_ROWS, 1024)
        less, more = (costs.transformer_peak(config, tokens, w, how) for w in (usual.times(value), usual))
        assert less <= more


@pytest.mark.parametrize(
    ("message", "expected"),
    [(TIMEOUT, True), (INTERACTIVITY, True), (HANG, True), (MEMORY, False), ("[eval] no primitive", False)],
)
def test_the_watchdog_is_told_from_other_failures(message, expected):
    assert is_watchdog(RuntimeError(message)) is expected
