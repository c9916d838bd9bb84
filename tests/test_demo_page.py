"""The page in a real browser: what a person does on it, from the first visit to a clip that plays.

Found by the ids and data- attributes that the page promises, never by waiting for a while."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from helpers.demo_server import Server, serving
from helpers.sounds import speech, write
from PIL import Image

from mlx_happyhorse import Clip
from mlx_happyhorse.outputs import metadata
from mlx_happyhorse.storage import hub

sync_api = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_core_python.sync_playwright")

CHROMIUM = next(
    (path for path in ("/usr/bin/chromium", "/usr/bin/google-chrome") if Path(path).exists()), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
]
DESKTOP = {"viewport": {"width": 1440, "height": 780}, "locale": "en-US"}
VIDEO = "document.querySelector('#clip video')"
PLAYS = f"() => {VIDEO} && {VIDEO}.readyState >= 2 && {VIDEO}.videoWidth > 0"
STAGE = "#stage[data-state={}]"
MINUTE = 60_000


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def tight(tmp_path_factory):
    """With little memory, and a second model."""
    folder = tmp_path_factory.mktemp("tight")
    shutil.copytree(hub.EMBEDDED["tiny"], folder / "home/second")
    with serving(Server(folder, usable=500_000_000)) as server:
        yield server


@pytest.fixture
def visit(browser):
    """Opens a page as a new visitor. In the end no page had an error or asked a foreign host."""
    contexts, troubles = [], []

    def open_page(server, context=None, **options):
        if context is None:
            context = browser.new_context(**DESKTOP | options)
            contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(MINUTE)
        page.on("pageerror", lambda error: troubles.append(f"error: {error}"))
        page.on("request", lambda request: foreign(request.url))
        page.goto(server.address)
        page.wait_for_selector("#estimate:not([data-state=none])")
        return page

    def foreign(url):
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname != "127.0.0.1":
            troubles.append(f"foreign: {url}")

    yield open_page
    for context in contexts:
        context.close()
    assert troubles == []


def says(page, where, text):
    page.wait_for_function(f"() => document.querySelector('{where}').textContent.includes('{text}')")


def holds(page, text):
    """Waits until the prompt holds a text."""
    page.wait_for_function(f"() => document.querySelector('#prompt textarea').value.includes('{text}')")


def ask(page, prompt, seconds=1):
    page.fill("#prompt textarea", prompt)
    page.fill("#seconds input[type=number]", str(seconds))
    page.press("#seconds input[type=number]", "Tab")
    says(page, "#estimate", f", {25 * seconds - (25 * seconds - 1) % 4} frames")


def make(page, prompt="A red ball bounces.", seconds=1):
    """A clip, until it can be played."""
    ask(page, prompt, seconds)
    page.click("#generate")
    page.wait_for_selector(STAGE.format("done"), timeout=MINUTE)
    page.wait_for_function(PLAYS)


def test_a_first_visit_without_weights(server, visit):
    page = visit(server)
    card = page.locator("#first-run")
    card.wait_for()
    text = card.inner_text()
    assert "15.6 GB" in text and "recommended" in text and "free on this disk" in text
    assert "google/t5gemma-9b-9b-ul2" in text
    page.click("#own-weights button")
    page.fill("#own-folder textarea, #own-folder input", "/nowhere")
    page.click("#have-them")
    page.wait_for_selector("#fetching[data-state=error]")
    assert "/nowhere" in page.inner_text("#fetching")
    page.click("#try-tiny")
    card.wait_for(state="hidden")


def test_a_download_without_a_network_says_so_in_words(server, visit):
    page = visit(server)
    page.click("#download-weights")
    page.wait_for_selector("#fetching[data-state=error]", timeout=MINUTE)
    assert "the Hub is not responding" in page.inner_text("#fetching")


def test_a_prompt_becomes_a_clip_that_plays_with_sound(server, visit):
    page = visit(server)
    make(page)
    pixels = """async () => {
        const video = document.querySelector('#clip video'), canvas = document.createElement('canvas');
        video.muted = true; video.loop = true; await video.play();
        const at = () => new Promise(done => video.requestVideoFrameCallback(() => {
            canvas.width = video.videoWidth; canvas.height = video.videoHeight;
            canvas.getContext('2d').drawImage(video, 0, 0);
            done(Array.from(canvas.getContext('2d').getImageData(0, 0, 64, 32).data)); }));
        const first = await at(); for (let i = 0; i < 5; i++) await at(); const later = await at();
        return [first.filter((value, i) => value !== later[i]).length, video.webkitAudioDecodedByteCount];
    }"""
    changed, sound = page.evaluate(pixels)
    assert changed > 1000 and sound > 0
    assert len(list(server.clips.glob("*.mp4"))) >= 1


def test_a_run_shows_what_comes_and_how_long_it_takes_and_is_stopped_in_a_step(slow, visit):
    page, before = visit(slow), set(slow.clips.glob("*.mp4"))
    ask(page, "A red ball bounces.", 2)
    page.click("#generate")
    stage = page.locator(STAGE.format("running"))
    page.wait_for_selector("#stage[data-state=running][data-stage=denoise] #preview")
    assert int(stage.get_attribute("data-steps")) == 8
    assert float(stage.get_attribute("data-seconds-left")) > 0
    assert page.evaluate("() => document.querySelector('#preview').naturalWidth") == 448
    step = int(stage.get_attribute("data-step"))
    page.keyboard.press("Escape")
    page.wait_for_selector(STAGE.format("stopped"), timeout=8000)
    assert step < 8 and set(slow.clips.glob("*.mp4")) == before
    assert "Stopped" in page.inner_text("#stage")


def test_a_reload_in_the_middle_of_a_run_loses_nothing(slow, visit):
    page = visit(slow)
    ask(page, "A ball.")
    page.click("#generate")
    page.wait_for_selector("#stage[data-state=running][data-stage=denoise]")
    page.reload()
    page.wait_for_selector("#stage[data-state=running]")
    page.click("#stop")
    page.wait_for_selector(STAGE.format("stopped"))


def test_two_tabs_queue_and_one_that_waits_can_be_taken_out(slow, visit):
    first, second = visit(slow), visit(slow)
    for page, prompt in ((first, "A ball."), (second, "A cube.")):
        ask(page, prompt)
        page.click("#generate")
        page.wait_for_selector("#stage[data-state=running], #stage[data-state=queued]")
    second.wait_for_selector(STAGE.format("queued"))
    assert "Position 1" in second.inner_text("#stage")
    second.click("#stop")
    second.wait_for_selector(STAGE.format("stopped"))
    first.click("#stop")
    first.wait_for_selector(STAGE.format("stopped"))


def test_a_server_that_was_killed_finds_the_jobs_that_waited(tmp_path, visit):
    with serving(Server(tmp_path, slow=0.5)) as server:
        page = visit(server)
        for prompt in ("A ball.", "A cube."):
            ask(page, prompt)
            page.click("#generate")
            page.wait_for_selector("#stage[data-state=running], #stage[data-state=queued]")
        server.end(signal.SIGKILL)
        page.close()
        server.slow = 0
        server.start()
        page = visit(server)
        assert "last session: 2" in page.inner_text("#waiting")
        page.click("#resume")
        page.wait_for_selector(STAGE.format("done"), timeout=MINUTE)
        assert len(list(server.clips.glob("*.mp4"))) == 2
        prompts = {metadata.read(file)["prompt"] for file in server.clips.glob("*.mp4")}
        assert prompts == {"A ball.", "A cube."}
        assert json.loads((server.clips / ".queue.json").read_text()) == []


def test_a_first_frame_and_a_voice_set_shape_and_length(server, visit, tmp_path):
    Image.fromarray(np.full((96, 64, 3), 200, np.uint8)).save(tmp_path / "face.png")
    write(tmp_path / "voice.wav", speech(0.7))
    page = visit(server)
    page.fill("#prompt textarea", "She speaks.")
    page.click("#inputs button")
    page.set_input_files("#first-frame input[type=file]", tmp_path / "face.png")
    page.set_input_files("#voice input[type=file]", tmp_path / "voice.wav")
    says(page, "#estimate", "32×64, 21 frames")
    page.click("#generate")
    page.wait_for_selector(STAGE.format("done"), timeout=MINUTE)
    page.wait_for_function(PLAYS)
    size = page.evaluate(f"() => {VIDEO}.videoHeight / {VIDEO}.videoWidth")
    assert size == 2


def test_what_does_not_fit_is_red_and_one_button_mends_it(tight, visit):
    page = visit(tight)
    page.fill("#prompt textarea", "A ball.")
    page.fill("#seconds input[type=number]", "15")
    page.press("#seconds input[type=number]", "Tab")
    page.wait_for_selector("#estimate[data-state=red]")
    assert page.locator("#generate").is_disabled()
    page.click("#fit")
    page.wait_for_selector("#estimate[data-state=green], #estimate[data-state=amber]")
    assert page.locator("#generate").is_enabled()


def test_another_model_is_used_without_a_restart(tight, visit):
    page = visit(tight)
    assert not page.locator("#first-run").is_visible()
    page.fill("#prompt textarea", "A ball.")
    page.click("#advanced button")
    assert page.input_value("#model input") == "second"
    page.click("#model input")
    page.get_by_role("option", name="tiny").click()
    says(page, "#estimate", "64×32")
    ask(page, "A ball.")
    page.click("#generate")
    page.wait_for_selector(STAGE.format("done"), timeout=MINUTE)
    assert metadata.read(next(iter(tight.clips.glob("*.mp4"))))["model"] == "tiny"


def test_an_error_is_shown_in_words(server, visit):
    page = visit(server)
    page.fill("#prompt textarea", "   ")
    page.click("#generate")
    page.wait_for_selector(STAGE.format("error"))
    assert "prompt is required" in page.inner_text("#error")


def test_a_finished_clip_is_upscaled_from_its_latents(server, visit):
    page = visit(server)
    make(page, "Rain on a window.")
    before = len(list(server.clips.glob("*.mp4")))
    page.click("#upscale")
    page.wait_for_function(f"() => {VIDEO} && {VIDEO}.videoWidth > 75", timeout=MINUTE)
    clips = sorted(server.clips.glob("*.mp4"))
    assert len(clips) == before + 1
    made = [metadata.read(file) for file in clips[-2:]]
    assert [m["upscale"] for m in made] == [None, "540p"] and made[0]["seed"] == made[1]["seed"]


def test_history_and_a_dropped_clip_restore_settings(server, visit, tmp_path):
    page = visit(server)
    make(page, "A green cube.", 2)
    page.reload()
    page.click("#history button >> nth=0")
    page.wait_for_selector(STAGE.format("done"))
    page.click("#reuse")
    holds(page, "A green cube.")
    assert page.input_value("#seconds input[type=number]") == "2"
    (file,) = [f for f in server.clips.glob("*.mp4") if metadata.read(f)["prompt"] == "A green cube."][-1:]
    page.fill("#prompt textarea", "")
    page.set_input_files("#restore input[type=file]", file)
    holds(page, "A green cube.")


def test_a_hostile_clip_restores_words_and_opens_nothing(server, visit, tmp_path):
    made = metadata.read(next(iter(server.clips.glob("*.mp4"))))
    hostile = made | {
        "prompt": "<img src=x onerror=window.hacked=1>",
        "model": "stranger/<script>horse",
        "image": {"path": "/etc/passwd<b>", "sha256": "0"},
        "seconds": 1e9,
        "steps": "8; rm",
        "upscale": "<b>",
    }
    frames = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3), np.uint8)
    Clip(frames, np.zeros((8820, 2), np.float32), hostile).save(server.clips / "zz-hostile.mp4")
    page = visit(server)
    page.set_input_files("#restore input[type=file]", server.clips / "zz-hostile.mp4")
    page.wait_for_selector("#told p")
    assert page.input_value("#prompt textarea") == hostile["prompt"]
    told = page.inner_text("#told")
    assert "choose it above" in told and "stranger/<script>horse, which is not on this machine" in told
    assert page.input_value("#seconds input[type=number]") == "5"
    assert page.evaluate("() => window.hacked") is None
    (server.clips / "zz-hostile.mp4").unlink()


def test_copies_are_commands_that_run(server, visit, browser):
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = visit(server, context)
    make(page, 'It says: "hello"; $HOME')
    page.click("#copy-command")
    page.wait_for_selector("#hh-toast.on")
    command = page.evaluate("() => navigator.clipboard.readText()")
    assert command.startswith("happyhorse generate --prompt 'It says: \"hello\"; $HOME' --model tiny")
    page.click("#copy-python")
    page.wait_for_function(
        "async () => (await navigator.clipboard.readText()).startsWith('from mlx_happyhorse')"
    )
    compile(page.evaluate("() => navigator.clipboard.readText()"), "copied", "exec")
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename.endswith(".mp4")
    context.close()


def test_the_page_speaks_chinese(server, visit):
    page = visit(server, viewport={"width": 1440, "height": 780}, locale="zh-CN")
    says(page, "#generate", "生成")
    assert "画面里发生什么" in page.inner_text("#prompt")
    assert "下载一次即可开始" in page.inner_text("#first-run")
    page.click("#language input")
    page.click("text=English")
    says(page, "#generate", "Generate")


def test_the_form_writes_the_model_s_own_prompt(server, visit):
    page = visit(server)
    page.fill("#prompt textarea", "A woman in red.")
    page.click("#format-help")
    form = page.locator("#format-form")
    form.wait_for()
    page.get_by_label("Speaker").first.fill("Young woman in red")
    page.get_by_label("Spoken words").first.fill("Good morning.")
    page.get_by_label("Background sound").fill("Waves")
    page.click("#format-write")
    holds(page, "Background Sound:")
    text = page.input_value("#prompt textarea")
    spoken = 'Dialogue:\n<Young woman in red, English>: "Good morning."'
    assert text == f"A woman in red.\n\n{spoken}\n\nBackground Sound:\n<Waves>"


def test_the_keyboard_is_enough(server, visit):
    page = visit(server)
    page.click("#try-tiny")
    ask(page, "")  # short
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("() => document.activeElement.closest('#prompt') !== null"):
            break
    page.keyboard.type("A ball.")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(STAGE.format("done"), timeout=MINUTE)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_serious_stands_in_the_way_of_screen_readers(server, visit, scheme):
    page = visit(server, viewport={"width": 1440, "height": 900}, color_scheme=scheme, locale="en-US")
    serious = []

    def look():
        found = axe.Axe().run(page)["violations"]
        serious.extend(
            f"{v['id']}: {[node['target'] for node in v['nodes']][:4]}"
            for v in found
            if v["impact"] in ("serious", "critical")
        )

    look()
    page.click("#try-tiny")
    page.click("#advanced button")
    page.click("#inputs button")
    make(page)
    look()
    assert serious == []


def test_a_narrow_screen_needs_no_scrolling_sideways(server, visit):
    page = visit(server, viewport={"width": 390, "height": 800}, locale="en-US")
    page.click("#try-tiny")
    make(page)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390


def test_generate_is_above_the_fold(server, visit):
    page = visit(server)
    page.click("#try-tiny")
    page.locator("#first-run").wait_for(state="hidden")
    box = page.locator("#generate").bounding_box()
    assert box["y"] + box["height"] <= 780
