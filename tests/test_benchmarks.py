"""Every benchmark runs on its smallest case, and prints what it promises."""

import importlib
import re
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SMALL = ["--seconds", "0.2", "--size", "32", "32"]
CASES = {
    "clip_hashes": (["text"], r"text( +[0-9a-f]{16}){3}"),
    "convert_full_size": (["--narrower", "40", "--only", "BF16"], r"to 4 bits, .* peak 0\.\d+ GiB"),
    "decoding": (["--narrower", "16", *SMALL], r"picture: peaks 0.0 % apart"),
    "dequantizing": (["--rows", "2", "--sizes", "64x64", "--seconds", "0"], r"64 → 64, 8 bits, .*\n.*\n +1 "),
    "golden_errors": (["-k", "audio_decoder"], r"test_audio_decoder.*: \d\.\de-\d\d"),
    "local_attention": (["--frames", "2"], r" 1 .*100%\n +2 "),
    "many_clips": (["1", "--stages", "denoise"], r"state 1: close \+0, drop \+0, stop \+0, interrupt \+0"),
    "planned": (["--quick"], r"1 runs, \d+ stages"),
    "preview": (["--clips", "1", *SMALL], r"wan +a preview takes"),
    "quantization": (["--quick"], r"8 bits, group 64 +16.\d+ GB( +\S+){9}\n"),
    "splitting": (["--quick"], r"at most 1e-6\n(.*\n)+1080p, most layers local"),
    "start": (["--runs", "1", "--seconds", "0.2"], r"cold start to finished clip: \d"),
    "streaming": (["--quick"], "outputs byte-identical"),
    "threads": (["--seconds", "0.2"], r"generate .* 0 wrong\nhand_around .* 0 wrong\nMLX's limits are as"),
}


@pytest.fixture
def load(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setenv("HAPPYHORSE_HOME", str(tmp_path / "home"))
    return importlib.import_module


@pytest.mark.parametrize("name", CASES)
def test_it_runs(load, name, capfd):
    arguments, pattern = CASES[name]
    assert not load(name).main(arguments)
    assert re.search(pattern, capfd.readouterr().out)


def test_callers_are_served(load, server, capfd):
    pytest.importorskip("gradio")
    load("callers").measure(server, rounds=1, callers=4)
    assert re.search(r"4 callers +\d+ MB, {.*'done': \d", capfd.readouterr().out)


def test_a_download_fetches_little_more_than_it_uses(load, root, tmp_path, capfd):
    load("fetched").measure(root, tmp_path, ["video_decoder"])
    assert re.search(r"fetched .* used: \+\d\.\d+ %\n.* 0\.\d+ source shards", capfd.readouterr().out)


def test_a_task_is_measured_before_it_is_killed(load, tmp_path, capfd):
    interrupted, networks = load("interrupted"), importlib.import_module("helpers.networks")
    networks.save(networks.published(), tmp_path / "base")
    target = tmp_path / "converted/model"
    task = interrupted.Task(
        "conversion", ["convert", "--hf-path", str(tmp_path / "base"), "--mlx-path", str(target)], target, {}
    )
    interrupted.measure(task, 0, tmp_path / "undisturbed")
    assert "killed 0 times" in capfd.readouterr().out
    task.forget()
    assert not task.run(0.05) and interrupted.is_absent_or_whole(task, tmp_path / "undisturbed")


def test_every_benchmark_is_run_here():
    here = {*CASES, "callers", "fetched", "interrupted"}
    assert here == {path.stem for path in BENCHMARKS.glob("*.py")}
