"""README and docs: scripts run as they stand, commands and links exist, figures are the planner's."""

import re
import shlex
from itertools import chain
from pathlib import Path

import av
import numpy as np
import pytest
from helpers.sounds import speech, write
from PIL import Image

from mlx_happyhorse.cli import main

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
SERVED = "http://127.0.0.1:7860"  # in scripts that talk to the page's server


def _blocks(language):
    """The fenced blocks of all pages, each with an id for pytest."""
    for page, text in PAGES.items():
        for i, block in enumerate(re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)):
            yield pytest.param(block, id=f"{page}-{i}")


SCRIPTS = [block for block in _blocks("python") if SERVED not in block.values[0]]
TALKING = [block for block in _blocks("python") if SERVED in block.values[0]]
SHELL = list(_blocks("sh"))


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.filterwarnings("ignore:tiny")
def test_script(script, tmp_path, monkeypatch):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 160, 3), np.uint8)).save(
        tmp_path / "face.jpg"
    )
    write(tmp_path / "voice.wav", speech(0.4))
    monkeypatch.chdir(tmp_path)
    exec(compile(script, "script.py", "exec"), {})
    clips = list(tmp_path.glob("*.mp4"))
    assert clips
    for clip in clips:
        with av.open(str(clip)) as file:
            assert sum(1 for _ in file.decode(video=0)) > 0


@pytest.mark.parametrize("script", TALKING)
def test_a_program_talks_to_the_page(script, server, capsys):
    exec(compile(script.replace(SERVED, server.address), "script.py", "exec"), {})
    assert ".mp4" in capsys.readouterr().out


def test_there_is_a_script_for_every_mode():
    shown = "\n".join(block.values[0] for block in SCRIPTS + TALKING)
    arguments = {"image=", "audio=", "upscale=", "draw="}
    methods = {".generate(", ".stream(", ".finish(", ".plan(", ".denoise(", ".upscale("}
    assert {name for name in arguments | methods if name not in shown} == set()
    assert any(block.id.startswith("README.md") for block in SCRIPTS)


def _commands(block):
    """The words of every `happyhorse` command in a block, without its name."""
    for line in block.replace("\\\n", "").splitlines():
        words = shlex.split(line)
        if "happyhorse" in words:
            yield words[words.index("happyhorse") + 1 :]


def _help(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0, f"there is no command {command}"
    return capsys.readouterr().out


@pytest.mark.parametrize("block", SHELL)
def test_commands_have_these_options(block, capsys):
    for command, *words in _commands(block):
        known = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", _help(command, capsys)))
        assert {word for word in words if re.match("--?[a-z]", word)} <= known


@pytest.mark.parametrize("block", SHELL)
def test_commands_can_be_pasted_into_zsh(block):
    """Which takes no comments when it is interactive."""
    assert not re.search(r"(^|\s)#", block)


@pytest.mark.parametrize("page", PAGES)
def test_options_named_in_the_text_exist(page, capsys):
    commands = "generate", "upscale", "decode", "info", "download", "convert", "check", "bench", "demo"
    known = set(chain.from_iterable(re.findall(r"--[a-z][\w-]*", _help(c, capsys)) for c in commands))
    prose = re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL)
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", prose)) <= known


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", PAGES[page]):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = (ROOT / page).parent / name if name else ROOT / page
        assert file.is_file(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}, target


def test_every_page_of_the_docs_is_linked():
    pages = PAGES.keys() - {"README.md"}
    assert {page for page in pages if f"({page})" not in PAGES["README.md"]} == set()


def test_readme_says_what_the_planner_computes():
    pytest.importorskip("gradio")
    from mlx_happyhorse.demo.offers import offers
    from mlx_happyhorse.planning.hardware import GB, mac

    rows = re.findall(
        r"^\| (\d+) GB \| (\w+).* \| ([\d.]+) GB \| (\d+) GB \|$", PAGES["README.md"], re.MULTILINE
    )
    assert len(rows) == 5
    for memory, *row in rows:
        machine = mac("Apple M3", int(memory) * GB, int(0.75 * int(memory)) * GB)
        (offer,) = (o for o in offers("magihuman-distill", machine, free=10**13) if o.recommended)
        precision = "bf16" if offer.bits is None else str(offer.bits)
        assert row == [precision, f"{offer.stored / GB:.1f}", f"{offer.memory / GB:.0f}"]
    assert f"transfers {offer.fetched / GB:.0f} GB" in PAGES["README.md"]
