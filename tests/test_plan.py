"""What a run will take: planned beforehand, refused where it does not fit, bettered by what runs took."""

import json
import os
import shutil
from dataclasses import replace

import mlx.core as mx
import pytest

from mlx_happyhorse import HappyHorse, RequestError
from mlx_happyhorse.cli import main
from mlx_happyhorse.cli.hints import in_flags
from mlx_happyhorse.convert import tiny
from mlx_happyhorse.errors import DoesNotFit, ModelError, Suggestion, argument
from mlx_happyhorse.pipeline import text_cache
from mlx_happyhorse.pipeline.progress import observed
from mlx_happyhorse.pipeline.state import State
from mlx_happyhorse.planning import timings
from mlx_happyhorse.planning.hardware import CHIPS, Machine, mac, this_machine
from mlx_happyhorse.planning.plan import duration
from mlx_happyhorse.planning.suggestions import NOT_UPSCALED
from mlx_happyhorse.planning.timings import Timing

GB = 10**9
SHORT = {"seconds": 0.36, "width": 64, "height": 32, "steps": 2}
UPSCALE = "upscale", "upscale_size"
UPSCALED = {"upscale": "540p", "upscale_size": (960, 512)}
pytestmark = pytest.mark.filterwarnings("ignore:tiny")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HAPPYHORSE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def horse_on(usable: float, low_ram: bool | None = None) -> HappyHorse:
    horse = HappyHorse.load("tiny", low_ram=low_ram)
    horse.machine = replace(horse.machine, usable=int(usable))
    return horse


@pytest.mark.parametrize(
    ("name", "like", "known"),
    [
        ("Apple M4 Max", "M4 Max", True),
        ("Apple M1", "M1", True),
        ("Apple M5 Pro", "M5 Pro", True),
        ("Apple M9 Max", "M5 Max", False),
        ("Apple M4 Ultra", "M3 Ultra", False),
        ("Apple Paravirtual device", "M1", False),
    ],
)
def test_a_chip_is_the_nearest_in_the_table(name, like, known):
    machine = mac(name, 64 * GB, 48 * GB)
    assert (machine.chip, machine.known) == (CHIPS[like], known)


def test_a_chip_is_given_half_a_second_of_work_at_once():
    assert mac("Apple M1", 16 * GB, 11 * GB).work().flops == 1e12
    assert mac("Apple M4 Max", 64 * GB, 48 * GB).work().flops == 6.75e12
    assert mac("Apple M4 Max", 64 * GB, 48 * GB).work(streamed=True).rows == 2048


def test_this_machine_is_known_well_enough():
    machine = this_machine()
    assert machine.name and GB < machine.usable < machine.memory
    assert machine.backend in ("cpu", "metal", "cuda")


def test_a_plan_has_the_stages_of_the_run(home):
    horse = HappyHorse.load("tiny")
    asked = SHORT | {"upscale": "540p", "upscale_size": (96, 64), "seed": 1}
    plan = horse.plan("a ball", **asked)
    states = list(horse.stream("a ball", **asked))
    assert [s.name for s in plan.stages] == [*dict.fromkeys(s.stage for s in states), "save"]
    assert all(stage.bytes > 0 and stage.seconds > 0 for stage in plan.stages)
    assert states[0].plan == plan and not plan.recorded
    assert str(plan).endswith("96×64, 9 frames") and "peak 0." in str(plan)
    lefts = [state.seconds_left for state in states]
    assert lefts[0] > 0 and lefts[-1] == pytest.approx(plan.stages[-1].seconds)


def test_time_left_does_not_follow_a_slow_first_frame(home, monkeypatch):
    plan = HappyHorse.load("tiny").plan("a ball", **SHORT)
    stages = tuple(replace(s, seconds=9.0) for s in plan.stages if s.name in ("denoise", "picture"))
    clock = iter([0, 4, 4, 6, 6, 14, 14, 15, 15])
    monkeypatch.setattr("mlx_happyhorse.pipeline.progress.time.monotonic", lambda: next(clock))
    states = [State("denoise", i, 4, {}) for i in (1, 2)] + [State("picture", i, 9, {}) for i in (1, 2)]
    lefts = [state.seconds_left for state in observed(iter(states), replace(plan, stages=stages))]
    assert lefts == [4 * 3 + 9, 2 * 2 + 9, 2 * 2 + 8, 2 * 2 + 7]


def test_a_prompt_that_was_read_before_is_not_read_again(home, monkeypatch):
    horse = HappyHorse.load("tiny")
    first = horse.encode_text("a red ball")
    assert "text" not in [stage.name for stage in horse.plan("a red ball", **SHORT).stages]
    assert "text" in [stage.name for stage in horse.plan("a green ball", **SHORT).stages]
    monkeypatch.setattr(HappyHorse, "_encode", lambda *_: pytest.fail("it was read again"))
    assert mx.array_equal(HappyHorse.load("tiny").encode_text("a red ball"), first)


def test_prompts_used_least_are_forgotten(home, monkeypatch):
    monkeypatch.setattr(text_cache, "MAX_PROMPTS", 2)
    features = mx.random.normal((3, 4))
    for i, prompt in enumerate(("a", "b", "c")):
        text_cache.store({prompt: features}, "encoder")
        os.utime(text_cache._file(prompt, "encoder"), (i, i))
        text_cache.load(["a"], "encoder")
    assert text_cache.known(["a", "b", "c"], "encoder") == {"a", "c"}
    text_cache.forget("a", "encoder")
    assert text_cache.known(["a", "c"], "encoder") == {"c"}


@pytest.mark.parametrize("spoiled", [float("nan"), 0])
def test_features_that_make_no_sense_are_read_anew(home, spoiled):
    horse = HappyHorse.load("tiny")
    first = horse.encode_text("a red ball")
    text_cache.store({"a red ball": first * spoiled}, horse._encoder)
    assert mx.array_equal(horse.encode_text("a red ball"), first)
    assert mx.array_equal(text_cache.load(["a red ball"], horse._encoder)["a red ball"], first)


def test_damaged_caches_do_no_harm(home):
    horse = HappyHorse.load("tiny")
    first = horse.encode_text("a red ball")
    for file in (home / "prompts").iterdir():
        file.write_bytes(b"damaged")
    (home / "timings.json").write_text('{"this": [1, "x"')
    assert mx.array_equal(horse.encode_text("a red ball"), first)
    assert horse.plan("a red ball", **SHORT).seconds > 0
    list(horse.stream("a red ball", **SHORT))


def test_times_of_runs_here_replace_the_table(home):
    horse = HappyHorse.load("tiny")
    guessed = {s.name: s.seconds for s in horse.plan("a ball", **SHORT).stages}
    *_, last = horse.stream("a ball", **SHORT)
    took = {stage.stage: stage.seconds for stage in last.taken}
    planned = {s.name: s.seconds for s in horse.plan("another", **SHORT).stages}
    assert guessed.keys() == planned.keys()
    for stage in ("text", "denoise", "sound", "picture"):
        assert planned[stage] == pytest.approx(took[stage], rel=0.3)
    longer = horse.plan("another", **SHORT | {"steps": 20}).stages
    assert {s.name: s.seconds for s in longer}["denoise"] == pytest.approx(10 * took["denoise"], rel=0.3)


def test_timings_of_other_machines_and_kinds_are_apart(home):
    timings.record("this", [Timing("denoise 4 bits", 1e9, 2.0), Timing("denoise 4 bits", 1e12, 500.0)])
    timings.record("that", [Timing("denoise 4 bits", 1e9, 9.0)])
    known = timings.read("this")
    assert timings.expected(known, "denoise 4 bits", 2e9) == 4.0
    assert timings.expected(known, "denoise 4 bits", 9e11) == pytest.approx(450)
    assert timings.expected(known, "denoise 8 bits", 1e9) is None
    assert timings.expected(known, "denoise 4 bits", 3e10) is None
    for _ in range(50):
        timings.record("this", [Timing("denoise 4 bits", 1e9, 1.0)])
    assert len(timings.read("this")) == timings.KEPT
    assert len(json.loads(timings.file().read_text())["that"]) == 1


def test_what_does_not_fit_is_refused_with_the_change_that_would(home):
    asked = {"seconds": 4, "width": 448, "height": 256}
    plan = horse_on(1e12, low_ram=True).plan("a ball", **asked)
    horse = horse_on(plan.needed - 1e6)
    with pytest.raises(DoesNotFit, match=r"With (seconds|width)=") as refused:
        horse.stream("a ball", **asked)
    assert horse.plan("a ball", **asked | refused.value.suggestion.settings).fits
    with pytest.raises(DoesNotFit, match="No shorter and no smaller clip fits: use a model with fewer bits"):
        horse_on(1e6).stream("a ball", **asked)
    assert next(iter(horse.stream("a ball", force=True, **asked))).stage == "text"


DEEP = {"num_layers": 40, "hidden_size": 256, "swiglu_size": 1024}


def written(folder, **changes):
    """A tiny model with other dimensions, by component."""
    networks = {name: config | changes.get(name, {}) for name, config in tiny.NETWORKS.items()}
    networks["video_decoder"] = networks["video_decoder"] | {"widths": [8, 8, 8, 8]}
    tiny.write(folder, networks)
    return folder


def test_a_transformer_too_large_is_streamed_by_itself(home, tmp_path):
    folder = written(tmp_path / "deep", transformer=DEEP)

    def plan(usable: float, low_ram: bool | None = None):
        horse = HappyHorse.load(folder, low_ram=low_ram)
        horse.machine = replace(horse.machine, usable=int(usable))
        return horse, horse.plan("a ball", **SHORT)

    whole = plan(1e12)[1]
    assert whole.highest.name == "denoise" and not whole.low_ram
    horse, tight = plan(whole.needed - 1)
    assert tight.low_ram and tight.fits and "weights streamed" in str(tight)
    assert len(list(horse.stream("a ball", **SHORT))) > 5
    with pytest.raises(DoesNotFit, match="With low_ram=True it fits"):
        plan(whole.needed - 1, low_ram=False)[0].stream("a ball", **SHORT)


def test_only_the_transformer_that_is_too_large_is_streamed(home, tmp_path):
    horse = HappyHorse.load(written(tmp_path / "deep", upscaler_540p=DEEP))
    asked = SHORT | {"upscale": "540p", "upscale_size": (96, 64), "upscale_steps": 1}
    whole = horse.plan("a ball", **asked)
    horse.machine = replace(horse.machine, usable=whole.needed - 1)
    streamed = {stage.name: stage.streamed for stage in horse.plan("a ball", **asked).stages}
    assert [name for name, value in streamed.items() if value] == ["upscale"]
    assert len(list(horse.stream("a ball", **asked))) > 5


@pytest.mark.parametrize("low_ram", [None, False, True])
@pytest.mark.parametrize(
    ("usable", "asked"),
    [
        (940e6, {"seconds": 20, "width": 640, "height": 448} | UPSCALED),
        (600e6, {"seconds": 5, "width": 640, "height": 448} | UPSCALED),
        (940e6, {"seconds": 60, "width": 960, "height": 544}),
        (460e6, {"seconds": 60, "width": 32, "height": 32}),
        (480e6, {"width": 448, "height": 448, "upscale": "540p", "upscale_size": (448, 480)}),
        (440e6, {"seconds": 60, "width": 640, "height": 448} | UPSCALED),
        (450e6, {"seconds": 60, "width": 448, "height": 256}),
    ],
)
def test_the_change_that_is_named_does_fit(home, low_ram, usable, asked):
    horse = horse_on(usable, low_ram)
    with pytest.raises(DoesNotFit, match="With") as refused:
        horse.stream("a ball", **asked)
    suggestion = refused.value.suggestion
    if suggestion.low_ram:
        horse = horse_on(usable, True)
    assert horse.plan("a ball", **asked | suggestion.settings).fits


@pytest.mark.parametrize(
    ("suggestion", "command", "words"),
    [
        (Suggestion({"seconds": 2.5}), "generate", "With --seconds 2.5 it fits."),
        (Suggestion({"width": 64, "height": 32}), "generate", "With --width 64 --height 32 it fits."),
        (Suggestion({"upscale_size": (960, 512)}), "generate", "With --upscale-size 960x512 it fits."),
        (Suggestion({"upscale_size": (960, 512)}), "upscale", "With --size 960x512 it fits."),
        (Suggestion(low_ram=True), "bench", "With --low-ram it fits."),
        (Suggestion(NOT_UPSCALED), "generate", "Without --upscale it fits."),
        (
            Suggestion(NOT_UPSCALED | {"seconds": 3.0}),
            "generate",
            "Without --upscale and with --seconds 3 it fits.",
        ),
        (None, "generate", "Close other programs, or use --force."),
    ],
)
def test_a_suggestion_is_worded_as_the_flags_of_its_command(suggestion, command, words):
    error = DoesNotFit("It is too large.", suggestion, f"Close other programs, or use {argument('force')}.")
    assert in_flags(error, command) == f"It is too large. {words}"


def test_what_cannot_be_changed_is_not_proposed(home):
    asked = SHORT | {"upscale": "540p", "upscale_size": (256, 128)}
    *_, last = HappyHorse.load("tiny").stream("a ball", **SHORT)
    with pytest.raises(
        DoesNotFit, match=r"may be used\. Decode it on a machine with more memory, or use force\.$"
    ):
        horse_on(1e6).finish(last.latents, keep_frames=False)
    large = horse_on(1e12).plan("a ball", keep_frames=False, **asked)
    with pytest.raises(DoesNotFit, match=r"With (upscale_size=\(\d+, \d+\)|seconds=[\d.]+) it fits"):
        horse_on(large.needed - 1e5).stream("a ball", keep_frames=False, **asked)
    with pytest.raises(DoesNotFit, match=r"With upscale_size=\(\d+, \d+\) it fits"):
        horse_on(large.needed - 1e5).finish(last.latents, keep_frames=False, **{k: asked[k] for k in UPSCALE})


def test_what_is_not_upscaled_is_proposed_before_its_base_is_made_smaller(home):
    asked = {"seconds": 0.2, "width": 448, "height": 256, "upscale": "540p"}
    unscaled = horse_on(1e12).plan("a ball", seconds=0.2, width=448, height=256)
    with pytest.raises(DoesNotFit, match="With upscale=None, upscale_size=None it fits"):
        horse_on(unscaled.needed).stream("a ball", **asked)


def test_latents_of_any_size_are_planned(home):
    *_, last = HappyHorse.load("tiny").stream("a ball", **SHORT)
    latents = replace(last.latents, video=last.latents.video[:1, :, :2], audio=last.latents.audio[:1])
    *_, decoded = HappyHorse.load("tiny").finish(latents)
    assert decoded.plan.request.geometry.frames == 1 and decoded.clip.video.shape == (1, 32, 32, 3)


def test_a_component_that_is_another_network_is_named(home, tmp_path):
    folder = written(tmp_path / "mixed")
    shutil.rmtree(folder / "video_decoder")
    shutil.copytree(folder / "audio_vae", folder / "video_decoder")
    with pytest.raises(ModelError, match=r"video_decoder cannot be used: .* another network, 'audio_vae'"):
        HappyHorse.load(folder).plan("a ball")


def test_frames_that_are_kept_are_planned_for(home):
    asked = {"seconds": 0.2, "width": 448, "height": 256}
    kept, handed_on = (HappyHorse.load("tiny").plan("x", keep_frames=k, **asked) for k in (True, False))
    assert kept.stages == handed_on.stages and kept.highest.name == "picture"
    assert kept.needed - handed_on.needed == 3 * 448 * 256 * 5
    with pytest.raises(DoesNotFit, match=r"With stream\(\.\.\., keep_frames=False\) it fits"):
        horse_on(handed_on.needed).stream("x", **asked)


def test_arrays_too_long_for_the_gpu_are_refused(home, tmp_path):
    folder = written(tmp_path / "model")
    config = json.loads((folder / "transformer/config.json").read_text())
    wide = {"hidden_size": 5120, "num_heads": 40, "num_kv_heads": 8, "head_dim": 128, "modality_layers": []}
    (folder / "transformer/config.json").write_text(json.dumps(config | wide | {"num_layers": 1}))
    horse = HappyHorse.load(folder)
    horse.machine = replace(horse.machine, usable=10**15)
    asked = {"width": 1920, "height": 1088, "steps": 1}
    assert horse.plan("x", seconds=30, **asked).fits
    with pytest.raises(DoesNotFit, match=r"3\.9 billion elements, and MLX takes 2\.1\. With "):
        horse.stream("x", seconds=60, **asked)


@pytest.fixture
def on_the_processor():
    before = mx.default_device()
    mx.set_default_device(mx.cpu)
    yield
    mx.set_default_device(before)


def test_planned_memory_is_near_what_is_measured(home, on_the_processor):
    """The stages that matter; benchmarks/planned.py holds many runs against it."""
    horse = HappyHorse.load("tiny")
    asked = {"seconds": 1, "width": 448, "height": 256, "steps": 1}
    *_, last = horse.stream("x", keep_frames=False, **asked)
    planned = {stage.name: stage.bytes for stage in last.plan.stages}
    measured = {stage.stage: stage.bytes for stage in last.taken}
    for stage, tolerance in (("denoise", 0.35), ("sound", 0.2), ("picture", 0.2)):
        assert planned[stage] == pytest.approx(measured[stage], rel=tolerance)


def test_without_keeping_frames_they_come_in_the_states(home):
    horse = HappyHorse.load("tiny")
    clip = horse.generate("x", seed=3, **SHORT)
    states = list(horse.stream("x", seed=3, keep_frames=False, **SHORT))
    frames = [frame for s in states if s.frames is not None for frame in s.frames]
    assert (clip.video == frames).all() and states[-1].clip is None
    (sound,) = [s.sound for s in states if s.sound is not None]
    assert (clip.audio == sound).all()


def test_a_dry_run_shows_every_stage_and_makes_nothing(in_empty_folder, tmp_path, capsys):
    assert main(["generate", "a ball", "--seconds", "0.36", "--dry-run", "--upscale", "540p"]) == 0
    out = capsys.readouterr().out
    for word in ("denoise", "upscale", "sound", "picture", "save", "may be used", "≈"):
        assert word in out
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_is_a_plain_line_and_exit_2(in_empty_folder, tmp_path, capsys, monkeypatch):
    small = Machine("small", "cpu", 10**8, 10**8, CHIPS["M1"])
    monkeypatch.setattr("mlx_happyhorse.pipeline.stages.this_machine", lambda: small)
    words = ["generate", "a ball", "--seconds", "0.36", "--width", "64", "--height", "32", "--steps", "1"]
    assert main(words) == 2
    assert "Error: this needs 0." in capsys.readouterr().err
    assert main([*words, "--dry-run"]) == 0
    assert "this needs" in capsys.readouterr().out
    assert main([*words, "--force"]) == 0
    assert (tmp_path / "clip.mp4").exists()


def test_the_benchmark_shows_every_stage(in_empty_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HAPPYHORSE_HOME", str(tmp_path / "home"))
    words = ["bench", "--seconds", "0.36", "--width", "64", "--height", "32", "--steps", "1"]
    assert main([*words, "--json", "b.json"]) == 0
    report = json.loads((tmp_path / "b.json").read_text())
    assert [s["stage"] for s in report["stages"]] == ["text", "denoise", "sound", "picture", "save"]
    assert all(s["cold"] > 0 and s["warm"] > 0 for s in report["stages"])
    assert report["frames"] == 9 and report["tokens"] == 3 * 1 * 2 + 10
    assert "· tiny float32 · 64×32, 9 frames, 1 steps" in capsys.readouterr().out
    assert main([*words, "--json", "nowhere/b.json"]) == 1
    assert main([*words, "--runs", "1"]) == 2
    assert "a benchmark needs a cold and a warm run" in capsys.readouterr().err
    assert len(list((tmp_path / "home/prompts").glob("*.safetensors"))) == 1


def test_the_benchmark_is_refused_and_forced_as_clips_are(home, capsys, monkeypatch):
    words = ["bench", "--seconds", "0.36", "--width", "64", "--height", "32", "--steps", "1"]
    monkeypatch.setattr(
        "mlx_happyhorse.pipeline.stages.this_machine", lambda: replace(this_machine(), usable=1)
    )
    assert main(words) == 2 and "use --force" in capsys.readouterr().err
    assert main([*words, "--force"]) == 0 and "tiny float32 streamed" in capsys.readouterr().out


def test_wrong_ways_to_run_are_refused():
    for wrong in ({"dense_rows": 0}, {"dense_rows": float("nan")}, {"dtype": "float16"}, {"dtype": mx.int8}):
        with pytest.raises(RequestError):
            HappyHorse.load("tiny", **wrong)


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (60, "60 s"), (130, "2 min"), (6000, "1 h 40 min")]
)
def test_durations_are_said_as_people_do(seconds, words):
    assert duration(seconds) == words
