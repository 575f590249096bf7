"""The page end to end, in headless Chromium: what a visitor does, and what they then hear.

The network is a stand-in that parts the song by frequency, so every stem is known exactly. Each
test opens a page of its own; the server is shared, and restarted where a test is about that.
Set `MOISES_LIGHT_SCREENSHOTS` to a folder to look at the page afterwards.
"""

import base64
import os
import re
import time
import zipfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")

from gradio.utils import get_upload_folder  # noqa: E402

from moises_light import audio, weights  # noqa: E402
from moises_light.config import SOURCES, configs  # noqa: E402
from moises_light.model import MoisesLight  # noqa: E402
from moises_light.ui import engine as engines  # noqa: E402
from moises_light.ui import handlers, jobs  # noqa: E402
from moises_light.ui.demo import build_demo, launch_options  # noqa: E402
from moises_light.ui.engine import Engine  # noqa: E402
from moises_light.ui.handlers import Studio  # noqa: E402
from moises_light.ui.share import Shares  # noqa: E402

pytestmark = [pytest.mark.browser, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[1]
RATE = 44100
PITCHES = {"vocals": 440.0, "drums": 6000.0, "bass": 60.0, "other": 1500.0}
LEVELS = {"vocals": 0.2, "drums": 0.05, "bass": 0.25, "other": 0.1}
EDGES = {
    "paper_small": {
        "bass": (0, 200),
        "vocals": (200, 900),
        "other": (900, 3e3),
        "drums": (3e3, 3e4),
    },
    "fullband_small": {
        "bass": (0, 30),
        "vocals": (30, 900),
        "other": (900, 3e3),
        "drums": (3e3, 3e4),
    },
}
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
]


class ByFrequency(nn.Module):
    """A network whose stems are bands of frequency; `pause` makes it as slow as a test needs."""

    sources = SOURCES
    sample_rate = RATE
    audio_channels = 2
    pause = 0.0

    def __init__(self, preset: str):
        super().__init__()
        self.edges = EDGES[preset]

    def set_precision(self, precision: str) -> nn.Module:
        return self

    def forward(self, mixture: Tensor) -> Tensor:
        time.sleep(self.pause)
        spectrum = torch.fft.rfft(mixture)
        hertz = torch.fft.rfftfreq(mixture.shape[-1], 1 / RATE)
        stems = []
        for name in self.sources:
            low, high = self.edges[name]
            inside = (hertz >= low) & (hertz < high)
            stems.append(torch.fft.irfft(spectrum * inside, n=mixture.shape[-1]))
        return torch.stack(stems, dim=1)


def tone(name: str, seconds: float) -> Tensor:
    t = torch.arange(int(seconds * RATE)) / RATE
    mono = LEVELS[name] * torch.sin(2 * torch.pi * PITCHES[name] * t)
    return torch.stack([mono, 0.7 * mono])


@pytest.fixture(scope="module")
def song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("song") / "four tones.flac"
    mixture = torch.stack([tone(name, 20.0) for name in SOURCES]).sum(0)
    audio.save(path, mixture, RATE, "flac", tags={"title": "Four tones", "artist": "Nobody"})
    return path


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    for preset in EDGES:
        model = MoisesLight(**configs[preset])
        path = folder / f"{preset}.safetensors"
        weights.save(model, path, {"preset": preset}, torch.float16)
    return folder


class Server:
    """The app in this process; `restart` is what a rebuilt Space does to it."""

    def __init__(self, checkpoints: Path):
        self.checkpoints = checkpoints
        self.address = ""
        self.start()

    def start(self) -> None:
        self.studio = Studio(Engine(self.checkpoints))
        self.demo = build_demo(studio=self.studio)
        _, self.address, _ = self.demo.launch(
            server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **launch_options()
        )

    def songs(self) -> list[Path]:
        return [path.parent for path in (Path(get_upload_folder()) / "studio").glob("*/song.json")]

    def restart(self) -> None:
        self.demo.close()
        self.start()


@pytest.fixture(scope="module")
def server(
    checkpoints: Path, tmp_path_factory: pytest.TempPathFactory, chromium: str
) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        patch.setenv("MOISES_LIGHT_SHARES", str(tmp_path_factory.mktemp("links")))
        patch.setattr(
            engines.weights, "load_pretrained", lambda preset, folder: ByFrequency(preset)
        )
        patch.setattr(engines, "_networks", {})
        running = Server(checkpoints)
        yield running
        running.demo.close()


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    with playwright.sync_playwright() as run:
        browser = run.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any, server: Server) -> Iterator[Callable[..., Any]]:
    """Open the page in a context of its own; at the end it must have met no error."""
    contexts, problems = [], []

    def open_page(query: str = "", clock: bool = False, script: str = "", **options: Any) -> Any:
        options = {"viewport": {"width": 1280, "height": 900}, **options}
        context = browser.new_context(accept_downloads=True, **options)
        contexts.append(context)
        context.add_init_script(script)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: watch(request.url))
        if clock:  # time goes on as ever, and `page.clock.fast_forward` jumps
            page.clock.install()
        page.goto(server.address + query)
        page.wait_for_function("window.studio && document.querySelector('#go')")
        return page

    def watch(url: str) -> None:
        if not url.startswith((server.address, "data:", "blob:")):
            problems.append(f"asked another host: {url}")

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def state(page: Any) -> dict[str, Any]:
    return page.evaluate("window.studio.state()")


def wait(page: Any, condition: str, timeout: float = 60_000) -> None:
    page.wait_for_function(
        f"(() => {{ const s = window.studio.state(); return {condition}; }})()", timeout=timeout
    )


def centre(page: Any, selector: str) -> tuple[float, float]:
    box = page.locator(selector).first.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def look(page: Any, name: str) -> None:
    folder = os.environ.get("MOISES_LIGHT_SCREENSHOTS")
    if folder:
        page.wait_for_timeout(400)
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


def upload(page: Any, path: Path) -> None:
    page.set_input_files("#song input[type=file]", path)
    wait(page, "s.phase === 'ready'")


def choose_preview(page: Any, at: int) -> None:
    page.get_by_role("radio", name="30 s preview").click()
    page.locator("#place input[type=number]").fill(str(at))
    page.locator("#place input[type=number]").press("Tab")


def begin(page: Any, path: Path) -> None:
    """Separate a song as far as the first stems that can be heard."""
    upload(page, path)
    page.click("#go")
    wait(page, "s.ready.a > 0")


def separate(page: Any, path: Path) -> None:
    upload(page, path)
    page.click("#go")
    wait(page, "s.phase === 'finished'")


def otherwise(page: Any) -> None:
    """Change a setting, so that there is something to separate anew."""
    box = page.locator("#residual input")
    box.set_checked(not box.is_checked())


def duplicated(page: Any) -> Any:
    """A second tab, with a copy of what this one keeps."""
    with page.expect_popup() as opened:
        page.evaluate("window.open(location.href)")
    return opened.value


def tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def download(page: Any, button: str) -> Path:
    with page.expect_download() as started:
        page.click(f"#{button}")
    path = Path(started.value.path())
    named = path.with_name(f"{path.stem}-{started.value.suggested_filename}")
    return path.rename(named)


def suggested(path: Path) -> str:
    return path.name.split("-", 5)[-1]


# --------------------------------------------------------------------------- listening


def test_stems_sound_while_the_rest_is_still_being_worked_on(
    visit: Callable[..., Any], song: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ByFrequency, "pause", 1.5)
    page = visit()
    look(page, "empty")
    assert page.is_disabled("#go")
    upload(page, song)
    assert page.inner_text(".ml-name") == "Nobody - Four tones"
    assert page.inner_text(".ml-facts").startswith("0:20 · peak")
    page.click("#go")
    wait(page, "s.ready.a > 0")
    page.click(".ml-play")
    wait(page, "s.playing && s.active === 'a' && s.level > 0.05")
    heard = state(page)
    assert heard["phase"] == "running", "this was meant to be before the end"
    assert heard["limit"] < 20
    assert heard["scheduled"] >= 4
    assert all(level > 0.01 for level in heard["meters"]["a"])
    assert "%" in page.inner_text(".ml-status")
    assert "left" in page.inner_text(".ml-status")
    look(page, "running")
    before = heard["time"], heard["position"]
    page.wait_for_timeout(700)
    after = state(page)
    assert after["time"] > before[0], "the audio clock runs"
    assert after["position"] > before[1]
    wait(page, "s.phase === 'finished' && s.peaks.a === 1000 && s.limit === 20")
    look(page, "finished")


def test_mute_solo_and_faders_change_what_is_heard(visit: Callable[..., Any], song: Path) -> None:
    page = visit()
    separate(page, song)
    page.click(".ml-play")
    wait(page, "s.level > 0.05")
    page.get_by_role("button", name="Mute vocals").click()
    wait(page, "s.levels.a[0] < 0.001 && s.meters.a[0] < 0.001 && s.meters.a[2] > 0.1")
    page.keyboard.press("1")
    wait(page, "s.levels.a[0] > 0.99")
    page.get_by_role("button", name="Solo bass").click()
    wait(page, "s.meters.a[2] > 0.1 && [0, 1, 3].every((i) => s.meters.a[i] < 0.001)")
    page.get_by_role("button", name="Solo bass").click()
    slider = page.get_by_role("slider", name="Volume of drums")
    slider.focus()
    page.keyboard.press("Home")
    wait(page, "s.levels.a[1] < 0.001 && s.levels.a[3] > 0.99")
    assert slider.get_attribute("aria-valuetext") == "silent"
    assert page.evaluate("window.studio.faders().drums") == 0


def test_who_moves_a_fader_hears_the_stems_and_another_song_begins_with_all_of_it(
    visit: Callable[..., Any], song: Path, tmp_path: Path
) -> None:
    page = visit()
    separate(page, song)
    page.evaluate("window.studio.transport.setLoop([2, 6])")
    page.click(".ml-play")
    page.click(".ml-deck[data-key=o]")
    wait(page, "s.active === 'o' && s.level > 0.05")
    page.get_by_role("button", name="Mute vocals").click()
    wait(page, "s.active === 'a' && s.levels.a[0] < 0.001")
    page.keyboard.press("o")
    wait(page, "s.active === 'o'")
    # a finger that scrolls the page
    page.evaluate(
        """() => {
          const fader = document.querySelector('[data-stem=bass] .ml-volume');
          fader.dispatchEvent(new PointerEvent('pointerdown'));
          fader.value = 10; fader.dispatchEvent(new Event('input'));
          fader.dispatchEvent(new PointerEvent('pointercancel'));
        }"""
    )
    page.wait_for_timeout(500)
    assert state(page)["active"] == "o"
    assert page.evaluate("window.studio.faders().bass") == 1
    page.get_by_role("slider", name="Volume of drums").focus()
    page.keyboard.press("o")
    wait(page, "s.active === 'o'")
    page.keyboard.press("End")
    wait(page, "s.active === 'a' && s.levels.a[1] > 1.5")
    page.check("#residual input")
    page.click("#go")
    wait(page, "s.phase === 'finished' && s.levels.a[1] > 1.5 && s.levels.a[0] < 0.001")
    other = tmp_path / "other song.wav"
    audio.save(other, tone("bass", 8.0), RATE)
    page.set_input_files("#song input[type=file]", other)
    page.wait_for_function("document.querySelector('.ml-name').textContent === 'other song'")
    assert set(page.evaluate("window.studio.faders()").values()) == {1}


def test_solo_with_ctrl_is_for_this_stem_alone(visit: Callable[..., Any], song: Path) -> None:
    page = visit()
    separate(page, song)
    heard = (
        "Object.entries(window.studio.faders()).filter(([, gain]) => gain).map(([name]) => name)"
    )
    for name in ("vocals", "drums"):
        page.get_by_role("button", name=f"Solo {name}").click()
    assert page.evaluate(heard) == ["vocals", "drums"]
    page.get_by_role("button", name="Solo bass").click(modifiers=["Control"])
    assert page.evaluate(heard) == ["bass"]
    page.get_by_role("button", name="Solo bass").click(modifiers=["Control"])
    assert page.evaluate(heard) == list(SOURCES)
    # of two, the one that is clicked stays
    for name in ("vocals", "drums"):
        page.get_by_role("button", name=f"Solo {name}").click()
    page.get_by_role("button", name="Solo drums").click(modifiers=["Control"])
    assert page.evaluate(heard) == ["drums"]


def test_space_after_a_click_is_for_the_music(visit: Callable[..., Any], song: Path) -> None:
    page = visit()
    upload(page, song)
    page.click("#go")
    wait(page, "s.phase === 'finished'")
    page.keyboard.press(" ")
    wait(page, "s.playing")
    assert state(page)["phase"] == "finished", "and nothing is separated anew"
    page.get_by_role("button", name="Solo bass").click()
    page.keyboard.press(" ")
    wait(page, "!s.playing")
    bass = page.get_by_role("button", name="Solo bass")
    assert bass.get_attribute("aria-pressed") == "true"
    # who came to the button by the keyboard presses it
    bass.focus()
    page.keyboard.press(" ")
    assert bass.get_attribute("aria-pressed") == "false"
    assert not state(page)["playing"]


def test_letters_and_digits_can_be_switched_off_as_keys(
    visit: Callable[..., Any], song: Path
) -> None:
    page = visit()
    separate(page, song)
    page.click(".ml-shortcuts")
    page.keyboard.press("1")
    page.keyboard.press("l")
    assert page.evaluate("window.studio.faders().vocals") == 1
    assert state(page)["loop"] is None
    page.keyboard.press("ArrowRight")
    assert state(page)["position"] == pytest.approx(5, abs=0.01)
    page.reload()
    page.wait_for_function("window.studio && window.studio.state().ready.a === 882000")
    assert not page.is_checked(".ml-shortcuts")
    page.click(".ml-shortcuts")
    page.click("body", position={"x": 3, "y": 3})
    page.keyboard.press("1")
    assert page.evaluate("window.studio.faders().vocals") == 0
    # on a touch screen they are listed, and the switch with them, once there is a keyboard
    tablet = visit(viewport={"width": 820, "height": 1100}, has_touch=True, is_mobile=True)
    separate(tablet, song)
    assert not tablet.is_visible(".ml-shortcuts")
    tablet.keyboard.press("ArrowRight")
    assert tablet.is_visible(".ml-shortcuts")


def test_a_key_that_is_held_is_pressed_once(visit: Callable[..., Any], song: Path) -> None:
    page = visit()
    separate(page, song)
    page.click("body", position={"x": 3, "y": 3})
    for _ in range(4):
        page.keyboard.down("1")
    page.keyboard.up("1")
    assert page.evaluate("window.studio.faders().vocals") == 0
    for _ in range(3):
        page.keyboard.down("ArrowRight")
    page.keyboard.up("ArrowRight")
    assert state(page)["position"] == pytest.approx(15, abs=0.01)


def test_a_microphone_hears_music_as_it_is(visit: Callable[..., Any]) -> None:
    """Browsers clean speech of what a song is made of, unless they are asked not to."""
    page = visit(
        script="""
        MediaDevices.prototype.getUserMedia = async (wanted) => {
          window.asked = wanted; window.type = navigator.audioSession.type;
          const track = {readyState: 'live'};
          window.track = track;
          return {getAudioTracks: () => [track]};
        };
        Object.defineProperty(navigator, 'audioSession', {value: {type: 'playback'}});
        """
    )
    page.evaluate("navigator.mediaDevices.getUserMedia({audio: true})")
    assert page.evaluate("window.asked.audio") == {
        "echoCancellation": False,
        "noiseSuppression": False,
        "autoGainControl": False,
    }
    assert page.evaluate("window.type") == "auto", "or a phone refuses the microphone"
    page.evaluate("window.studio.transport.open(44100)")
    wake = "(window.studio.transport.wake(), navigator.audioSession.type)"
    assert page.evaluate(wake) == "auto", "while it is open"
    page.evaluate("window.track.readyState = 'ended'")
    assert page.evaluate(wake) == "playback"


def test_seek_loop_and_keys(visit: Callable[..., Any], song: Path) -> None:
    page = visit()
    separate(page, song)
    page.keyboard.press("ArrowRight")
    assert state(page)["position"] == pytest.approx(5, abs=0.01)
    page.click("body", position={"x": 3, "y": 3})
    page.keyboard.press(" ")
    wait(page, "s.playing && s.position > 5.2")
    page.get_by_role("slider", name="Position in the song").fill("12")
    wait(page, "s.position > 12 && s.position < 14")
    box = page.locator(".ml-song").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.50, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.53, box["y"] + 10, steps=4)
    page.mouse.move(box["x"] + box["width"] * 0.55, box["y"] + 10, steps=4)
    page.mouse.up()
    low, high = state(page)["loop"]
    assert (low, high) == (pytest.approx(10, abs=0.2), pytest.approx(11, abs=0.2))
    places = []
    for _ in range(30):
        places.append(state(page)["position"])
        page.wait_for_timeout(100)
    assert min(places) >= low - 0.01
    assert max(places) <= high + 0.01
    assert any(b < a for a, b in pairwise(places)), "it came round"
    assert not state(page)["waiting"]
    for end in (low, high):
        assert end * RATE == pytest.approx(round(end * RATE), abs=1e-6), "on whole samples"
    pieces = page.evaluate(
        "window.studio.transport.pieces"
        ".map((p) => [p.from, p.from + p.length, !!p.enters, p.leaves])"
    )
    for begin_, end_, enters, leaves in pieces[1:]:
        assert enters == (begin_ == pytest.approx(low)), "faded in where it comes round"
        assert leaves == (end_ == pytest.approx(high)), "and out before"
    page.keyboard.press("l")
    assert state(page)["loop"] is None
    # brackets as keyboards send them on which they need AltGr, or Option
    for modifiers in ("altKey: true, ctrlKey: true", "altKey: true"):
        page.evaluate(
            f"document.body.dispatchEvent(new KeyboardEvent('keydown', "
            f"{{key: ']', {modifiers}, bubbles: true}}))"
        )
        assert state(page)["loop"] is not None
        page.keyboard.press("l")
    page.locator(".ml-wave").first.click(position={"x": 2, "y": 10})
    wait(page, "s.position < 2")
    # arrows move five seconds on the slider, too
    page.get_by_role("slider", name="Position in the song").focus()
    page.keyboard.press("ArrowRight")
    wait(page, "s.position > 5 && s.position < 8")
    # and while it rests the slider says where it is
    page.keyboard.press(" ")
    page.evaluate("window.studio.seek(3)")
    page.keyboard.press("ArrowUp")
    seek = page.get_by_role("slider", name="Position in the song")
    page.wait_for_function("Math.abs(document.querySelector('.ml-seek').value - 4) < 0.02")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("Math.abs(document.querySelector('.ml-seek').value - 9) < 0.02")
    assert seek.get_attribute("aria-valuetext") == "9 s of 20 s"


def test_a_drag_over_the_lanes_asks_for_audio_where_it_ends(
    visit: Callable[..., Any], song: Path
) -> None:
    page = visit()
    separate(page, song)
    page.click(".ml-play")
    wait(page, "s.position > 0.5")
    page.wait_for_timeout(500)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.headers.get("range", "")))
    box = page.locator(".ml-wave").first.bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 10, steps=40)
    assert page.inner_text(".ml-time b") in ("0:09", "0:10"), "the shown place follows"
    assert state(page)["position"] < 6, "while it plays on"
    page.mouse.up()
    wait(page, "s.position > 9.5 && s.position < 12")
    # what is played from there on, by two decks, and what was about to be played before
    assert len(asked) <= 14


def test_the_slider_points_where_the_waveform_does(visit: Callable[..., Any], song: Path) -> None:
    page = visit()
    upload(page, song)
    wave, slider = (page.locator(name).bounding_box() for name in (".ml-song", ".ml-seek"))
    for part in (0.05, 0.3, 0.99):
        page.mouse.click(wave["x"] + part * wave["width"], slider["y"] + slider["height"] / 2)
        assert state(page)["position"] == pytest.approx(20 * part, abs=0.06)


def test_on_a_phone_who_asks_for_stems_is_taken_to_them(
    visit: Callable[..., Any], song: Path
) -> None:
    page = visit(viewport={"width": 390, "height": 700}, has_touch=True, is_mobile=True)
    top = "document.querySelector('.ml-player').getBoundingClientRect().top"
    page.wait_for_selector("#song input[type=file]", state="attached")
    page.evaluate("window.scrollTo(0, 9999)")
    upload(page, song)
    page.wait_for_function(f"Math.abs({top}) < 60")  # and not at the form, which is below it now
    page.locator("#go").scroll_into_view_if_needed()
    assert page.evaluate(top) < -100, "the form is below the result"
    page.tap("#go")
    page.wait_for_function(f"Math.abs({top}) < 60")
    wait(page, "s.phase === 'finished'")
    tab(page, "Compare")
    page.locator("#go-b").scroll_into_view_if_needed()
    page.evaluate("window.scrollTo(0, 9999)")
    assert page.evaluate(top) < -100
    page.tap("#go-b")
    page.wait_for_function(f"Math.abs({top}) < 60")


@pytest.mark.parametrize("width", [320, 360, 390])
def test_on_a_phone_the_invitation_lies_within_its_card(
    visit: Callable[..., Any], width: int
) -> None:
    page = visit(viewport={"width": width, "height": 700})
    card = page.locator(".ml-player").bounding_box()
    for name in (".ml-mark", ".ml-invite", ".ml-hint", ".ml-choose", ".ml-example"):
        part = page.locator(name).bounding_box()
        assert card["x"] <= part["x"], name
        assert part["x"] + part["width"] <= card["x"] + card["width"], name


def test_a_finger_that_scrolls_over_the_lanes_moves_nothing(
    visit: Callable[..., Any], song: Path
) -> None:
    page = visit(viewport={"width": 390, "height": 700}, has_touch=True, is_mobile=True)
    separate(page, song)
    page.evaluate("window.studio.transport.setLoop([2, 5])")
    page.evaluate("window.studio.seek(3)")
    lane = page.locator(".ml-lane[data-stem=drums] .ml-wave")
    lane.scroll_into_view_if_needed()
    box = lane.bounding_box()
    touch = page.context.new_cdp_session(page)
    x, y = box["x"] + 0.8 * box["width"], box["y"] + 20
    before = page.evaluate("window.scrollY")
    touch.send(
        "Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]}
    )
    for step in range(1, 11):
        points = [{"x": x, "y": y - 15 * step}]
        touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": points})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.wait_for_function(f"window.scrollY > {before} + 50")
    assert (state(page)["position"], state(page)["loop"]) == (3, [2, 5])
    assert page.inner_text(".ml-time b") == "0:03"
    # nor where it begins on a slider
    for selector in (".ml-lane[data-stem=drums] .ml-volume", ".ml-seek"):
        slider = page.locator(selector)
        slider.scroll_into_view_if_needed()
        box = slider.bounding_box()
        x, y = box["x"] + 0.9 * box["width"], box["y"] + box["height"] / 2
        value, before = slider.input_value(), page.evaluate("window.scrollY")
        start = {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]}
        touch.send("Input.dispatchTouchEvent", start)
        way = -1 if before < 200 else 1
        for step in range(1, 11):
            points = [{"x": x, "y": y + way * 15 * step}]
            touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": points})
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        page.wait_for_function(f"Math.abs(window.scrollY - {before}) > 50")
        page.wait_for_timeout(200)
        assert slider.input_value() == value
    assert page.evaluate("window.studio.faders().drums") == 1
    assert state(page)["position"] == 3
    lane.scroll_into_view_if_needed()
    page.touchscreen.tap(*centre(page, ".ml-lane[data-stem=drums] .ml-wave"))
    wait(page, "Math.abs(s.position - 10) < 0.5")


def test_buttons_look_under_the_pointer_as_they_do_without(
    visit: Callable[..., Any], song: Path
) -> None:
    page = visit()
    separate(page, song)
    mute = ".ml-lane[data-stem=drums] .ml-m"

    def look_of(selector: str) -> list[str]:
        return page.evaluate(
            "(s) => { const c = getComputedStyle(document.querySelector(s)); "
            "return [c.backgroundColor, c.color]; }",
            selector,
        )

    page.click(mute)
    under_the_pointer = look_of(mute)
    page.mouse.move(5, 5)
    assert under_the_pointer == look_of(mute) != look_of(".ml-lane[data-stem=bass] .ml-m")
    plain = look_of(".ml-play")
    page.hover(".ml-play")
    assert plain == look_of(".ml-play"), "its white sign stays on black"


def test_a_loop_at_the_end_of_the_song_goes_on(visit: Callable[..., Any], song: Path) -> None:
    page = visit()
    separate(page, song)
    page.evaluate("window.studio.transport.setLoop([19.4, 20])")
    page.evaluate("window.studio.seek(19.4)")
    page.click(".ml-play")
    wait(page, "s.playing && s.level > 0.02")
    page.wait_for_timeout(6000)
    now = state(page)
    assert now["playing"]
    assert 19.39 <= now["position"] <= 20.01
    # and a mark at the very end makes a loop that can be played
    page.click(".ml-play")
    page.evaluate("window.studio.transport.setLoop(null)")
    page.evaluate("window.studio.seek(20)")
    page.keyboard.press("[")
    low, high = state(page)["loop"]
    assert high - low > 0.09


def test_a_loop_drawn_while_nothing_plays_is_what_is_played(
    visit: Callable[..., Any], song: Path
) -> None:
    page = visit()
    separate(page, song)
    page.evaluate("window.studio.seek(15)")
    box = page.locator(".ml-song").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.20, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.30, box["y"] + 10, steps=4)
    page.mouse.up()
    now = state(page)
    assert now["position"] == now["loop"][0] == pytest.approx(4, abs=0.2)
    page.click(".ml-play")
    wait(page, "s.playing && s.position > 4.2 && s.position < 6.2")


def joined(page: Any, *decks: str) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """What is scheduled: the pieces, and the sound of decks `[S, L]`, their first channels."""
    pieces, encoded = page.evaluate(
        """(decks) => [window.studio.transport.pieces, decks.map((key) => {
          const t = window.studio.transport, parts = t.pieces.map((p) => p.nodes.get(key));
          return t.decks.get(key).stems.map((_, s) => parts.map((nodes) => {
            const bytes = new Uint8Array(nodes[s].node.buffer.getChannelData(0).slice().buffer);
            let text = '';
            for (let i = 0; i < bytes.length; i += 8192)
              text += String.fromCharCode(...bytes.subarray(i, i + 8192));
            return btoa(text);
          }));
        })].map((x, i) => i ? x : x.map(({from, length, when, lasts, enters}) => (
          {from, length, when, lasts, enters})))""",
        list(decks),
    )
    sound = [[b"".join(map(base64.b64decode, stem)) for stem in deck] for deck in encoded]
    return pieces, [np.stack([np.frombuffer(stem, np.float32) for stem in deck]) for deck in sound]


@pytest.mark.parametrize(("speed", "key"), [(0.5, 0), (1, 3), (0.75, -2), (1.25, 0)])
def test_speed_and_key_are_independent(
    visit: Callable[..., Any], song: Path, speed: float, key: int
) -> None:
    page = visit()
    separate(page, song)
    # where the bass alone is heard, its period decides where frames meet
    page.get_by_role("button", name="Solo bass").click()
    page.select_option(".ml-key", str(key))
    page.select_option(".ml-speed", str(speed))
    page.evaluate("window.studio.seek(3)")
    page.click(".ml-play")
    wait(page, "s.level > 0.05 && s.scheduled > 8")
    look(page, f"speed-{speed}-key-{key}")
    (t0, at0), (t1, at1) = (
        page.evaluate("(() => { const s = window.studio.state(); return [s.time, s.position]; })()")
        for _ in (0, page.wait_for_timeout(1500))
    )
    assert at1 - at0 == pytest.approx(speed * (t1 - t0), rel=1e-6)
    pieces, (stems,) = joined(page, "a")
    seamless = []
    for piece, after in pairwise(pieces):
        assert piece["lasts"] == pytest.approx(piece["length"] / speed, abs=1 / RATE)
        assert after["from"] == pytest.approx(piece["from"] + piece["length"], abs=1e-6)
        late = after["when"] - piece["when"] - piece["lasts"]
        # a machine that is at work on something else may be late, and then it fades in
        seamless.append(late == pytest.approx(0, abs=1e-6))
        assert seamless[-1] or (late > 0 and after["enters"])
    assert any(seamless)
    sound = stems[SOURCES.index("bass")]
    assert len(sound) == sum(round(piece["lasts"] * RATE) for piece in pieces)
    hertz = PITCHES["bass"] * 2 ** (key / 12)
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), 4 * len(sound)))
    assert np.argmax(spectrum) * RATE / (4 * len(sound)) == pytest.approx(hertz, rel=0.01)
    # neither a hole nor a click, least of all where pieces meet
    periods = sound[: len(sound) // 1470 * 1470].reshape(-1, 1470)
    assert np.abs(periods).max(1) == pytest.approx(LEVELS["bass"], rel=0.1)
    bend = LEVELS["bass"] * (2 * np.pi * hertz / RATE) ** 2
    assert np.abs(np.diff(sound, 2)).max() < 3 * bend + 4 / 32768
    page.select_option(".ml-key", "0")
    page.select_option(".ml-speed", "1")
    page.evaluate(
        "(() => { const t = window.studio.transport; t.pause(); t.seek(3); t.play(); })()"
    )
    page.wait_for_function("window.studio.transport.pieces.some((p) => p.nodes.has('a'))")
    assert page.evaluate("window.studio.transport.pieces.every((p) => !p.path)"), "bit by bit"


def test_stems_and_presets_stay_together_at_any_speed(
    visit: Callable[..., Any], song: Path
) -> None:
    """Each frame is read at the same place from all of them: what agrees leaves no difference."""
    page = visit()
    separate(page, song)
    tab(page, "Compare")
    page.click("#go-b")
    wait(page, "s.ready.b === 882000 && s.phase === 'finished'")
    page.select_option(".ml-speed", "0.7")
    page.click(".ml-deck[data-key=diff]")
    page.click(".ml-play")
    page.wait_for_function(
        "(() => { const { pieces } = window.studio.transport; return pieces.length > 2 &&"
        " pieces.every((p) => ['a', 'b'].every((key) => p.nodes.get(key)?.length === 4)); })()"
    )
    _, (a, b) = joined(page, "a", "b")
    same = [SOURCES.index("drums"), SOURCES.index("other")]
    assert np.abs(a[same]).max() > 0.04
    assert np.abs(a[same] - b[same]).max() < 2e-4, "two networks' rounding to 16 bits"


def test_a_loop_comes_round_when_it_is_slow(visit: Callable[..., Any], song: Path) -> None:
    page = visit()
    separate(page, song)
    page.evaluate("window.studio.transport.setLoop([5, 6])")
    page.select_option(".ml-speed", "0.5")
    page.click(".ml-play")
    wait(page, "s.level > 0.05")
    page.wait_for_timeout(3000)
    read = state(page)["bytes"]
    places = []
    for _ in range(60):
        places.append(state(page)["position"])
        page.wait_for_timeout(100)
    assert state(page)["bytes"] == read, "it is fetched once"
    assert 4.99 <= min(places) <= max(places) <= 6.01
    assert any(b < a for a, b in pairwise(places)), "it came round"
    # a list that was opened and left as it was keeps no keys from the music
    page.locator(".ml-speed").click()
    page.keyboard.press("Escape")
    page.keyboard.press(" ")
    wait(page, "!s.playing")
    page.keyboard.press(">")
    assert state(page)["speed"] == 0.6
    page.reload()
    page.wait_for_function("window.studio && window.studio.state().ready.a === 882000")
    now = state(page)
    assert (now["speed"], now["key"], now["loop"]) == (0.6, 0, [5, 6]), "kept"
    page.set_input_files("#song input[type=file]", song)
    wait(page, "s.phase === 'ready'")
    assert state(page)["speed"] == 1, "another song begins as it is"


def test_a_song_is_still_there_after_the_page_was_loaded_anew(
    visit: Callable[..., Any], song: Path
) -> None:
    page = visit()
    separate(page, song)
    page.reload()
    page.wait_for_function("window.studio && window.studio.state().ready.a === 882000")
    assert page.inner_text(".ml-name") == "Nobody - Four tones"
    assert suggested(download(page, "take-bass")).endswith("-bass-paper_small.wav")
    assert page.is_disabled("#go"), "it is separated like this"
    otherwise(page)
    page.click("#go")
    wait(page, "s.phase === 'running'")
    wait(page, "s.phase === 'finished'")
    assert state(visit())["phase"] == "empty", "another tab has no song"


def test_a_mix_is_still_there_after_the_page_was_loaded_anew(
    visit: Callable[..., Any], song: Path
) -> None:
    """Phones do that to tabs in the background, and Gradio after a lost connection."""
    page = visit()
    separate(page, song)
    page.get_by_role("button", name="Mute vocals").click()
    page.locator(".ml-lane[data-stem=drums] .ml-volume").fill("30")
    page.locator(".ml-master-range").fill("50")
    page.evaluate("window.studio.transport.setLoop([6, 12])")
    page.evaluate("window.studio.seek(8)")
    before = page.evaluate("window.studio.faders()")
    page.reload()
    page.wait_for_function("window.studio && window.studio.state().ready.a === 882000")
    now = state(page)
    assert (now["position"], now["loop"], now["active"]) == (8, [6, 12], "a")
    assert page.evaluate("window.studio.faders()") == before
    assert before["vocals"] == 0
    assert page.input_value(".ml-master-range") == "50"
    page.click(".ml-play")
    wait(page, "s.playing && s.meters.a[0] < 0.001 && s.meters.a[2] > 0.1")


def test_who_comes_with_another_song_gets_no_late_one(
    visit: Callable[..., Any], song: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second tab waits for the run of the first, whose song it would show."""
    monkeypatch.setattr(ByFrequency, "pause", 2.0)
    monkeypatch.setattr(handlers, "LONGEST_WAIT", 12.0)
    page = visit()
    begin(page, song)
    second = duplicated(page)
    second.wait_for_function(
        "document.querySelector('.ml-invite')?.textContent.startsWith('Fetch')"
    )
    second.wait_for_selector("#example")
    second.evaluate("document.querySelector('#example').click()")
    second.wait_for_function("document.querySelector('.ml-name').textContent.includes('Francium')")
    name = second.inner_text(".ml-name")
    assert "Four tones" not in name
    second.wait_for_timeout(13_000)
    assert second.inner_text(".ml-name") == name
    monkeypatch.setattr(ByFrequency, "pause", 0.0)
    wait(page, "s.phase === 'finished'")


def test_who_waits_in_another_tab_sees_how_far_it_is(
    visit: Callable[..., Any], song: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ByFrequency, "pause", 0.8)
    page = visit()
    title = page.title()
    begin(page, song)
    assert re.fullmatch(r"\d+ % · Nobody - Four tones", page.title())
    monkeypatch.setattr(ByFrequency, "pause", 0.0)
    wait(page, "s.phase === 'finished'")
    assert page.title() == title, "it is seen, so it need not be told"


def test_a_run_goes_on_where_its_page_was_loaded_anew(
    visit: Callable[..., Any], song: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a lost connection makes it, too: the run ends with it, and nobody presses a button."""
    monkeypatch.setattr(ByFrequency, "pause", 1.5)
    page = visit()
    page.get_by_label("Preset").click()
    page.get_by_role("option", name="Fullband small · to").click()
    begin(page, song)
    kept = state(page)["ready"]["a"]
    page.reload()
    page.wait_for_function("window.studio && window.studio.state().phase === 'running'")
    assert state(page)["ready"]["a"] >= kept > 0
    monkeypatch.setattr(ByFrequency, "pause", 0.0)
    wait(page, "s.phase === 'finished' && s.ready.a === 882000")
    assert state(page)["takes"] == ["fullband_small"], "as it was asked for"
    assert audio.load(download(page, "take-bass")).shape[-1] == 882000


def test_a_run_that_waited_in_line_is_asked_for_again_when_its_page_is_back(
    visit: Callable[..., Any], song: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ByFrequency, "pause", 4.0)
    begin(visit(), song)
    page = visit()
    upload(page, song)
    page.get_by_label("Preset").click()
    page.get_by_role("option", name="Fullband small · to").click()
    page.click("#go")
    wait(page, "s.phase === 'queued'")
    page.reload()
    page.wait_for_function("window.studio && window.studio.state().phase !== 'empty'")
    assert "Done" not in page.inner_text(".ml-status")
    page.wait_for_function("['queued', 'running'].includes(window.studio.state().phase)")
    monkeypatch.setattr(ByFrequency, "pause", 0.0)
    wait(page, "s.phase === 'finished' && s.ready.a === 882000")
    assert state(page)["takes"] == ["fullband_small"], "as it was asked for"


def test_who_separates_a_shared_result_listens_on(
    visit: Callable[..., Any], server: Server, song: Path
) -> None:
    """It is another song from then on, a copy of their own."""
    first = visit()
    separate(first, song)
    token = first.evaluate("sessionStorage.getItem('studio-song')")
    result = jobs.load_song(server.songs()[0].parent, token)
    page = visit(f"?r={Shares().create(result, jobs.load_takes(result)).token}")
    wait(page, "s.phase === 'finished'")
    page.evaluate("window.studio.transport.setLoop([4, 19])")
    page.evaluate("window.studio.seek(5)")
    page.click(".ml-play")
    wait(page, "s.playing && s.level > 0.05")
    otherwise(page)
    page.click("#go")
    page.wait_for_function("t => sessionStorage.getItem('studio-song') !== t", arg=token)
    wait(page, "s.phase === 'finished' && s.ready.a === 882000")
    now = state(page)
    assert now["playing"]
    assert now["position"] != 5, "and it goes on from there, round and round"
    assert now["loop"] == [4, 19]


def test_who_waits_with_a_shared_result_still_has_it(
    visit: Callable[..., Any], server: Server, song: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = visit()
    separate(first, song)
    token = first.evaluate("sessionStorage.getItem('studio-song')")
    result = jobs.load_song(server.songs()[0].parent, token)
    link = Shares().create(result, jobs.load_takes(result))
    monkeypatch.setattr(ByFrequency, "pause", 4.0)
    begin(visit(), song)
    page = visit(f"?r={link.token}")
    wait(page, "s.phase === 'finished'")
    otherwise(page)
    page.click("#go")
    wait(page, "s.phase === 'queued'")
    assert state(page)["ready"]["a"] == 882000
    page.click(".ml-stop")
    wait(page, "s.phase === 'stopped'")
    assert state(page)["ready"]["a"] == 882000
    assert not page.locator(".ml-on").is_visible(), "there is nothing to go on with"
    monkeypatch.setattr(ByFrequency, "pause", 0.0)


def test_what_was_stopped_goes_on_when_it_is_told_to(
    visit: Callable[..., Any], song: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ByFrequency, "pause", 1.0)
    page = visit()
    begin(page, song)
    assert not page.locator(".ml-on").is_visible()
    page.click(".ml-stop")
    wait(page, "s.phase === 'stopped'")
    page.reload()
    page.wait_for_function("window.studio && window.studio.state().phase === 'stopped'")
    kept = state(page)["ready"]["a"]
    assert "are kept; you can use them" in page.inner_text(".ml-status")
    assert audio.load(download(page, "take-bass")).shape[-1] == kept
    page.click(".ml-play")
    wait(page, "s.active === 'a' && s.level > 0.05")
    page.evaluate("window.studio.transport.setLoop([1, 3])")
    look(page, "stopped")
    page.click(".ml-on")
    wait(page, "s.phase === 'running' && s.ready.a > 0")
    assert state(page)["active"] == "a", "what is heard stays"
    assert state(page)["ready"]["a"] >= kept
    monkeypatch.setattr(ByFrequency, "pause", 0.0)
    wait(page, "s.phase === 'finished' && s.ready.a === 882000 && s.playing")
    assert not page.locator(".ml-on").is_visible()
    assert audio.load(download(page, "take-bass")).shape[-1] == 882000


def test_who_stopped_a_run_gets_no_new_one(
    visit: Callable[..., Any], song: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by leaving before the piece has ended, nor in a second tab that waited for it."""
    monkeypatch.setattr(ByFrequency, "pause", 2.0)
    page = visit()
    begin(page, song)
    second = duplicated(page)
    second.wait_for_function("window.studio && window.studio.state().phase === 'empty'")
    page.click(".ml-stop")
    page.wait_for_timeout(300)
    assert page.inner_text(".ml-status").startswith("Stopping")
    page.reload()
    for each in (page, second):
        each.wait_for_function("window.studio && window.studio.state().phase === 'stopped'")
    page.wait_for_timeout(700)
    for each in (page, second):
        assert state(each)["phase"] == "stopped"
        assert each.is_visible(".ml-on")


def test_a_second_tab_leaves_the_first_ones_run_alone(
    visit: Callable[..., Any], song: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ByFrequency, "pause", 4.0)
    monkeypatch.setattr(handlers, "LONGEST_WAIT", 0.5)
    page = visit()
    begin(page, song)
    second = duplicated(page)
    second.wait_for_function("window.studio && window.studio.state().phase === 'ready'")
    assert "in another tab" in second.inner_text(".ml-status")
    monkeypatch.setattr(handlers, "LONGEST_WAIT", 60.0)
    monkeypatch.setattr(handlers, "PATIENCE", 0.0)
    third = duplicated(page)
    third.wait_for_function(
        "document.querySelector('.ml-invite')?.textContent.includes('in another tab')"
    )
    monkeypatch.setattr(ByFrequency, "pause", 0.0)
    for each in (page, third):
        each.wait_for_function("window.studio.state().ready.a === 882000")
        assert state(each)["phase"] == "finished"


@pytest.mark.parametrize("first", ["example", "link"])
def test_the_address_does_not_bring_back_what_the_visitor_went_on_from(
    visit: Callable[..., Any], server: Server, song: Path, tmp_path: Path, first: str
) -> None:
    query = "?example=francium&preset=fullband_small"
    if first == "link":
        separate(visit(), song)
        newest = max(server.songs(), key=lambda folder: folder.stat().st_mtime)
        result = jobs.load_song(newest.parent, newest.name)
        query = f"?r={Shares().create(result, jobs.load_takes(result)).token}"
    page = visit(query)
    wait(page, "['ready', 'finished'].includes(s.phase)")
    page.reload()
    page.wait_for_function("window.studio && window.studio.state().phase !== 'empty'")
    brought = page.inner_text(".ml-name")
    own = tmp_path / "my own.wav"
    audio.save(own, tone("bass", 4.0), RATE)
    page.set_input_files("#song input[type=file]", own)
    page.wait_for_function("document.querySelector('.ml-name').textContent === 'my own'")
    page.click("#go")
    wait(page, "s.phase === 'finished'")
    page.reload()
    page.wait_for_function("window.studio && window.studio.state().phase === 'finished'")
    assert page.inner_text(".ml-name") == "my own" != brought
    asked = page.evaluate("location.search")
    assert asked == ("?preset=fullband_small" if first == "example" else "")


def test_a_page_whose_session_was_forgotten_still_has_its_song(
    visit: Callable[..., Any], server: Server, song: Path
) -> None:
    page = visit()
    separate(page, song)
    # what Gradio does an hour after a connection was lost
    server.demo.app.state_holder.session_data.clear()
    assert suggested(download(page, "take-bass")).endswith("-bass-paper_small.wav")
    tab(page, "Views")
    page.wait_for_selector("#view .js-plotly-plot")
    with page.expect_response(lambda response: "queue/data" in response.url):
        page.get_by_label("Stems", exact=True).click()
    page.wait_for_function(
        "document.querySelector('#view .js-plotly-plot')?.textContent.includes('Vocals')"
    )
    assert not page.locator(".toast-body").count()


def make_link(page: Any, *before: str) -> str:
    """Share the result of a page; the link's token, which is none of those made before."""
    tab(page, "Share")
    page.click("#share-make")
    token = page.wait_for_function(
        """(before) => {
          const field = document.querySelector('#share-link textarea, #share-link input');
          const token = field?.value.match(/^http.*\\?r=(.*)$/)?.[1];
          return before.includes(token) ? null : token;
        }""",
        arg=list(before),
    )
    return str(token.json_value())


def test_a_page_keeps_the_keys_of_its_links(
    visit: Callable[..., Any], server: Server, song: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ByFrequency, "pause", 0.2)
    page = visit()
    separate(page, song)
    first = make_link(page)
    otherwise(page)
    page.click("#go")
    wait(page, "s.phase === 'running'")
    page.wait_for_selector("#share-earlier a")
    wait(page, "s.phase === 'finished'")
    second = make_link(page, first)
    page.reload()
    page.wait_for_function("window.studio && window.studio.state().phase === 'finished'")
    tab(page, "Share")
    page.wait_for_function("document.querySelectorAll('#share-earlier a').length === 4")
    third = make_link(page, first, second)
    assert len(page.locator("#share-earlier a").all()) == 4, "both are still within reach"
    # what Gradio does an hour after a connection was lost
    server.demo.app.state_holder.session_data.clear()
    page.click("#share-delete")
    page.wait_for_function(
        "document.querySelector('#share-until')?.textContent.includes('nobody can open it')"
    )
    shares = Shares()
    assert shares.look(third) is None
    assert shares.look(first)
    assert shares.look(second)
    page.reload()
    page.wait_for_function("window.studio && window.studio.state().phase === 'finished'")
    tab(page, "Share")
    page.wait_for_selector("#share-earlier a")
    addresses = [a.get_attribute("href") for a in page.locator("#share-earlier a").all()]
    assert [a.partition("&")[0] for a in addresses] == [
        f"?r={t}" for t in (first, first, second, second)
    ]


def test_a_speed_that_was_measured_is_told_at_once(visit: Callable[..., Any], song: Path) -> None:
    separate(visit(), song)
    page = visit()
    page.wait_for_function(
        "document.querySelector('#price')?.textContent.includes('A minute of music takes about')"
    )
    page = visit("?example=francium")
    page.wait_for_function(
        "document.querySelector('#price')?.textContent.includes('This takes about')"
    )


def test_a_page_that_is_only_open_keeps_its_song(
    visit: Callable[..., Any], server: Server, song: Path
) -> None:
    page = visit(clock=True)
    upload(page, song)
    for folder in server.songs():
        os.utime(folder / "song.json", (0, 0))
    page.clock.fast_forward(11 * 60 * 1000)
    for _ in range(100):
        kept = [f for f in server.songs() if (f / "song.json").stat().st_mtime > 0]
        if kept:
            break
        page.wait_for_timeout(100)
    assert len(kept) == 1, "that of the page, and no other visitor's"


def test_the_original_plays_on_until_the_stems_are_ahead(
    visit: Callable[..., Any], song: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ByFrequency, "pause", 1.2)
    page = visit()
    upload(page, song)
    page.evaluate("window.studio.seek(12)")
    page.click(".ml-play")
    wait(page, "s.active === 'o' && s.level > 0.05")
    page.click("#go")
    wait(page, "s.ready.a > 0")
    page.wait_for_timeout(300)
    now = state(page)
    assert now["ready"]["a"] < 12 * RATE
    assert (now["active"], now["waiting"], now["level"] > 0.05) == ("o", False, True)
    wait(page, "s.phase === 'finished' && !s.playing && s.position > 19.9")
    page.click(".ml-play")
    wait(page, "s.active === 'a' && s.level > 0.05")


def test_who_separates_anew_while_listening_hears_the_song_meanwhile(
    visit: Callable[..., Any], song: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = visit()
    separate(page, song)
    page.click(".ml-play")
    wait(page, "s.active === 'a' && s.level > 0.05")
    page.keyboard.press("a")  # as somebody who has chosen
    monkeypatch.setattr(ByFrequency, "pause", 4.0)
    page.wait_for_timeout(2000)  # what follows a run renders the button anew
    page.evaluate("window.studio.seek(3)")
    page.evaluate("window.studio.transport.setLoop([2, 6])")  # it plays for as long as this takes
    assert page.is_disabled("#go")
    assert "Already separated like this" in page.inner_text("#price")
    otherwise(page)
    page.click("#go")
    wait(page, "s.phase === 'running'")
    assert state(page)["active"] == "a", "what there was is heard until there is something new"
    wait(page, "s.playing && s.active === 'o' && s.buses.o > 0.9 && s.level > 0.05")
    assert state(page)["phase"] == "running"
    # who wants stems where none are yet is told what the silence is
    wait(page, "s.ready.a > 0")
    page.keyboard.press("a")
    page.evaluate("window.studio.seek(19)")
    wait(page, "s.active === 'a' && s.waiting && s.phase === 'running'")
    assert page.inner_text(".ml-status").startswith("Waiting for the stems to get here. 0:")
    wait(page, "s.phase === 'finished' && !s.waiting")


def test_a_jump_to_just_before_a_piece_ends_plays_on(visit: Callable[..., Any], song: Path) -> None:
    page = visit()
    separate(page, song)
    page.click(".ml-play")
    wait(page, "s.level > 0.05")
    page.evaluate("window.studio.seek(9.85)")
    wait(page, "s.position > 10.1 && !s.waiting")


def test_stems_that_are_called_for_between_two_pieces_leave_no_hole(
    visit: Callable[..., Any], song: Path
) -> None:
    page = visit()
    separate(page, song)
    page.keyboard.press("o")
    page.evaluate(
        "() => { const real = window.fetch; window.fetch = async (...a) => {"
        " if (String(a[0]).includes('.pcm')) await new Promise((done) => setTimeout(done, 900));"
        " return real(...a); }; }"
    )
    page.click(".ml-play")
    wait(page, "s.active === 'o' && s.level > 0.05")
    # stems that nobody has heard yet are wanted while the next piece of the song is on its way
    page.wait_for_function("window.studio.transport.pumping !== null")
    page.evaluate("window.studio.transport.decks.get('a').hot = false")
    page.keyboard.press("a")
    wait(page, "s.active === 'a'")
    missing = page.evaluate(
        "(() => { const t = window.studio.transport, now = t.context.currentTime; return t.pieces"
        ".filter((p) => p.when + p.length > now).filter((p) => !p.nodes.has('a')).length; })()"
    )
    assert missing == 0


def test_a_screen_stays_on_while_a_song_is_separated(
    visit: Callable[..., Any], song: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ByFrequency, "pause", 0.5)
    page = visit()
    page.evaluate(
        "() => { window.held = [0, 0]; const release = () => { window.held[1]++; };"
        " const request = async () => { window.held[0]++; return {release}; };"
        " Object.defineProperty(navigator, 'wakeLock', {value: {request}}); }"
    )
    upload(page, song)
    page.click("#go")
    wait(page, "s.ready.a > 0")
    assert page.evaluate("window.held") == [1, 0]
    wait(page, "s.phase === 'finished'")
    page.wait_for_function("window.held[1] === 1")
    assert page.evaluate("window.held") == [1, 1]


def test_an_original_that_was_heard_to_its_end_makes_way_for_the_stems(
    visit: Callable[..., Any], song: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ByFrequency, "pause", 3.0)
    page = visit()
    upload(page, song)
    page.evaluate("window.studio.seek(18.5)")
    page.click(".ml-play")
    page.click("#go")
    wait(page, "s.active === 'o' && !s.playing && s.position === 20")
    assert state(page)["ready"].get("a", 0) == 0, "this was meant to be before the first stems"
    wait(page, "s.ready.a > 0")
    page.click(".ml-play")
    wait(page, "s.active === 'a' && s.playing && s.position < 10")


def test_a_browser_that_does_not_begin_to_play_is_told_of(
    visit: Callable[..., Any], song: Path
) -> None:
    page = visit()
    upload(page, song)
    page.evaluate(
        "() => { const real = AudioContext.prototype.resume;"
        " AudioContext.prototype.resume = () => new Promise(() => {});"
        " window.plugIn = () => { AudioContext.prototype.resume = real; }; }"
    )
    page.click(".ml-play")
    page.wait_for_function(
        "document.querySelector('.ml-status').textContent.includes('sound output is connected')"
    )
    look(page, "no-sound-output")
    assert not state(page)["playing"]
    page.evaluate("window.plugIn()")
    page.click(".ml-play")
    wait(page, "s.playing && s.level > 0.05 && s.error === ''")
    assert "sound output" not in page.inner_text(".ml-status")
    # one that cannot make an output at all, and one that says it runs and stands still
    page.reload()
    page.wait_for_function("window.studio && window.studio.state().phase === 'ready'")
    page.evaluate(
        "() => { window.real = AudioContext; AudioContext = function () { throw new Error(); }; }"
    )
    page.click(".ml-play")
    wait(page, "s.error.includes('sound output') && !s.playing")
    page.evaluate(
        "() => { AudioContext = window.real;"
        " const time = 'currentTime', all = BaseAudioContext.prototype;"
        " window.usual = Object.getOwnPropertyDescriptor(all, time);"
        " Object.defineProperty(all, time, {get: () => 0, configurable: true}); }"
    )
    page.click(".ml-play")
    wait(page, "s.playing")
    wait(page, "s.error.includes('sound output') && !s.playing")
    page.evaluate("Object.defineProperty(BaseAudioContext.prototype, 'currentTime', window.usual)")
    page.click(".ml-play")
    wait(page, "s.playing && s.level > 0.05 && s.error === ''")


def test_who_presses_play_twice_while_the_browser_wakes_wanted_no_music(
    visit: Callable[..., Any], song: Path
) -> None:
    page = visit()
    upload(page, song)
    page.evaluate(
        "() => { const real = AudioContext.prototype.resume;"
        " AudioContext.prototype.resume = async function () {"
        "  await new Promise((done) => setTimeout(done, 500)); return real.call(this); }; }"
    )
    for _ in range(2):
        page.keyboard.press(" ")
    page.wait_for_timeout(900)
    assert not state(page)["playing"]
    page.keyboard.press(" ")
    wait(page, "s.playing && s.level > 0.05")


def test_a_page_that_is_silent_lets_the_sound_output_go(
    visit: Callable[..., Any], song: Path
) -> None:
    page = visit(clock=True)
    upload(page, song)
    page.click(".ml-play")
    wait(page, "s.playing && s.clock === 'running'")
    page.click(".ml-play")
    page.wait_for_timeout(200)
    assert state(page)["clock"] == "running", "who goes on at once need not wait"
    page.clock.fast_forward(31_000)
    wait(page, "s.clock === 'suspended'")
    page.click(".ml-play")
    wait(page, "s.playing && s.level > 0.05")


RENDERED = """async (plan) => {
  // played as fast as can be, so that no other work on this machine makes a hole
  const t = window.studio.transport, rate = 44100, last = Math.max(...Object.keys(plan)) + 5;
  const context = new OfflineAudioContext(1, rate * last / 10, rate);
  t.context = context;
  t.wake = async () => {};
  t.out = context.createGain();
  t.meter = context.createAnalyser();
  t.out.connect(context.destination);
  const nodes = () => t.pieces.flatMap((piece) => [...piece.nodes.values()]);
  for (let tenth = 1; tenth < last; tenth++) context.suspend(tenth / 10).then(async () => {
    const [what, ...values] = plan[tenth] ?? ['pump'];
    await t[what](...values);
    if (what !== 'reset') {
      while (t.pumping) await new Promise((done) => setTimeout(done, 5));
      await Promise.all(nodes().map((node) => node.loading));
    }
    context.resume();
  });
  const x = (await context.startRendering()).getChannelData(0), n = rate / 10;
  return [...Array(last).keys()].map((tenth) => {
    let step = 0, peak = 0;
    for (let i = tenth * n + 1; i < (tenth + 1) * n; i++) {
      step = Math.max(step, Math.abs(x[i] - x[i - 1]));
      peak = Math.max(peak, Math.abs(x[i]));
    }
    return [step, peak];
  });
}"""


def test_nothing_clicks(visit: Callable[..., Any], tmp_path: Path) -> None:
    """The steps from sample to sample of a low tone, wherever it begins and ends."""
    path = tmp_path / "low.flac"
    audio.save(path, tone("bass", 20.0), RATE)
    page = visit()
    upload(page, path)
    plan = {
        5: ["play"],
        20: ["seek", 7.0042],
        30: ["setLoop", [7.2017, 15]],
        40: ["setLoop", None],
        50: ["pause"],
        60: ["play"],
        70: ["setPace", 0.75, 0],
        80: ["setPace", 1, 0],
        85: ["setLoop", [8.0, 8.3017]],
        100: ["reset"],
    }
    steps, peaks = np.array(page.evaluate(RENDERED, plan)).T
    level = LEVELS["bass"] * (1 + 0.7) / 2  # both channels in one
    usual = level * 2 * np.pi * PITCHES["bass"] / RATE
    assert steps[10:15].max() == pytest.approx(usual, rel=0.05)
    loud = np.flatnonzero(peaks > 0.9 * level)
    assert {5, 19, 21, 31, 41, 49, 61, 71, 81, 99} <= set(loud)
    assert peaks[51:60].max() == peaks[101:].max() == 0
    assert steps.max() < 2 * usual, np.flatnonzero(steps >= 2 * usual)


def test_where_stems_vanish_the_song_plays_on(visit: Callable[..., Any], song: Path) -> None:
    page = visit()
    separate(page, song)
    page.click(".ml-play")
    wait(page, "s.active === 'a' && s.level > 0.05")
    page.evaluate(
        "() => { const t = window.studio.transport;"  # as after a while in which nobody heard it
        " for (const piece of t.pieces) piece.nodes.delete('o');"
        " t.decks.get('o').hot = false; t.fallBack('o'); t.removeDeck('a'); t.setMix({o: 1}); }"
    )
    page.wait_for_timeout(3000)
    wait(page, "s.active === 'o' && s.playing && s.level > 0.05")


def test_on_a_slow_line_there_are_few_long_gaps_and_they_are_told_of(
    visit: Callable[..., Any], song: Path
) -> None:
    page = visit()
    separate(page, song)
    line = page.context.new_cdp_session(page)
    half = 2 * 4 * 2 * RATE // 2  # bytes a second: the four stems take twice that
    line.send("Network.enable")
    line.send(
        "Network.emulateNetworkConditions",
        {"offline": False, "latency": 40, "downloadThroughput": half, "uploadThroughput": half},
    )
    page.click(".ml-play")
    wait(page, "s.playing && s.waiting && s.position > 1.9")
    page.wait_for_function(
        "document.querySelector('.ml-status').textContent === 'Waiting for the connection …'"
    )
    wait(page, "!s.waiting && s.position > 2.1")
    begun = state(page)["position"]
    wait(page, "s.waiting")
    assert state(page)["position"] - begun > 4.5, "three pieces in a row"


def test_where_the_stems_end_for_now_the_playhead_stands(
    visit: Callable[..., Any], song: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ByFrequency, "pause", 4.0)
    page = visit()
    begin(page, song)
    page.evaluate("window.studio.seek(window.studio.state().limit - 1)")
    page.click(".ml-play")
    wait(page, "s.waiting && s.position > s.limit - 0.3")
    page.wait_for_timeout(1500)
    now = state(page)
    assert now["waiting"]
    assert now["position"] > now["limit"] - 0.3
    # where it was stopped, it ends
    page.click(".ml-stop")
    wait(page, "s.phase === 'stopped' && !s.playing", 10_000)
    assert state(page)["position"] == pytest.approx(state(page)["limit"], abs=0.01)


def test_stop_really_stops_and_keeps_what_is_there(
    visit: Callable[..., Any], song: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ByFrequency, "pause", 0.8)
    page = visit()
    begin(page, song)
    page.click(".ml-stop")
    for _ in range(3):  # whatever the run tells meanwhile
        assert page.inner_text(".ml-status").startswith("Stopping")
        assert page.is_disabled(".ml-stop")
        page.evaluate("window.studio.transport.onchange()")
    wait(page, "s.phase === 'stopped'")
    kept = state(page)["ready"]["a"]
    assert 0 < kept < 20 * RATE
    assert "are kept" in page.inner_text(".ml-status")
    page.wait_for_timeout(2000)
    assert state(page)["ready"]["a"] == kept, "nothing goes on in the background"
    stem = audio.load(download(page, "take-bass"))
    assert stem.shape[-1] == kept
    monkeypatch.setattr(ByFrequency, "pause", 0.0)
    page.click("#go")
    wait(page, "s.phase === 'finished' && s.ready.a === 882000")


def test_another_song_takes_the_place_of_one_that_is_worked_on(
    visit: Callable[..., Any], song: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ByFrequency, "pause", 1.0)
    other = tmp_path / "other song.wav"
    audio.save(other, tone("bass", 8.0), RATE)
    page = visit()
    begin(page, song)
    page.set_input_files("#song input[type=file]", other)
    page.wait_for_function("document.querySelector('.ml-name').textContent === 'other song'")
    wait(page, "s.phase === 'ready'")
    page.wait_for_timeout(2500)
    assert page.inner_text(".ml-name") == "other song", "the old run writes here no more"
    assert state(page)["phase"] == "ready"
    monkeypatch.setattr(ByFrequency, "pause", 0.0)
    page.click("#go")
    wait(page, "s.phase === 'finished' && s.ready.a === 352800")


def test_a_file_dropped_beside_the_field_never_leaves_the_page(visit: Callable[..., Any]) -> None:
    page = visit()
    drop = """() => {
      const data = new DataTransfer(); data.items.add(new File(['x'], 'x.wav'));
      const event = new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true});
      document.querySelector('#stage').dispatchEvent(event);
      return event.defaultPrevented;
    }"""
    page.evaluate("document.querySelector('#song input[type=file]').remove()")
    assert page.evaluate(drop)


def test_a_song_dropped_while_another_is_on_its_way_comes_next(
    visit: Callable[..., Any], song: Path
) -> None:
    page = visit()
    # as Gradio's field is while a song is sent: it takes no other
    page.evaluate("document.querySelector('#song input[type=file]').type = 'text'")
    page.evaluate(
        """(encoded) => {
          const bytes = Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0));
          const data = new DataTransfer(); data.items.add(new File([bytes], 'late.flac'));
          const drop = {dataTransfer: data, bubbles: true, cancelable: true};
          document.querySelector('#stage').dispatchEvent(new DragEvent('drop', drop));
        }""",
        base64.b64encode(song.read_bytes()).decode(),
    )
    page.wait_for_timeout(700)
    assert state(page)["phase"] == "empty"
    page.evaluate("document.querySelector('#song input[type=text]').type = 'file'")
    wait(page, "s.phase === 'ready'")
    assert page.inner_text(".ml-name") == "Nobody - Four tones"


def test_a_second_visitor_waits_in_line_and_sees_only_their_own_song(
    visit: Callable[..., Any], song: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ByFrequency, "pause", 1.0)
    other = tmp_path / "other song.wav"
    audio.save(other, tone("bass", 8.0), RATE)
    first, second = visit(), visit()
    upload(first, song)
    upload(second, other)
    first.click("#go")
    wait(first, "s.phase === 'running'")
    second.click("#go")
    wait(second, "s.phase === 'queued'")
    assert "Next in line" in second.inner_text(".ml-status")
    wait(second, "s.phase === 'finished'")
    wait(first, "s.phase === 'finished'")
    assert state(first)["duration"] == 20
    assert state(second)["duration"] == 8
    assert second.inner_text(".ml-name") == "other song"


def test_a_preview_is_thirty_seconds_from_the_chosen_place(
    visit: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "long.wav"
    audio.save(path, tone("vocals", 50.0), RATE)
    page = visit()
    upload(page, path)
    choose_preview(page, 12)
    page.click("#go")
    wait(page, "s.phase === 'finished'")
    assert state(page)["duration"] == pytest.approx(30)
    assert page.inner_text(".ml-time").split() == ["0:12", "0:42"]


def test_the_form_shows_how_what_is_there_was_made(
    visit: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "long.wav"
    audio.save(path, tone("vocals", 50.0), RATE)
    page = visit()
    upload(page, path)
    choose_preview(page, 12)
    page.locator("#residual input").check()
    page.click("#go")
    wait(page, "s.phase === 'finished'")
    page.reload()
    page.wait_for_function("window.studio && window.studio.state().phase === 'finished'")
    page.wait_for_function("document.querySelector('#residual input').checked")
    assert page.get_by_label("30 s preview").is_checked()
    page.wait_for_function("document.querySelector('#place input[type=number]')?.value === '12'")
    page.wait_for_function(
        "document.querySelector('#price').textContent.includes('Already separated like this')"
    )
    assert page.is_disabled("#go")


def test_a_song_on_its_way_is_told_of_while_another_is_worked_on(
    visit: Callable[..., Any], song: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ByFrequency, "pause", 1.0)
    page = visit()
    held: list[Any] = []
    page.route("**/gradio_api/upload*", lambda route: held.append(route))
    page.set_input_files("#song input[type=file]", song)
    page.wait_for_function(
        "document.querySelector('.ml-invite').textContent.includes('on its way')"
    )
    page.click("#example")
    wait(page, "s.phase === 'ready'")
    page.click("#go")
    wait(page, "s.ready.a > 0")
    page.wait_for_function(
        "/left.*will take the place of this one/.test("
        "document.querySelector('.ml-status').textContent)"
    )
    for route in held:  # the file, and what asks how far it is
        route.continue_()
    page.wait_for_function("document.querySelector('.ml-name').textContent.includes('Four tones')")
    monkeypatch.setattr(ByFrequency, "pause", 0.0)
    page.wait_for_timeout(1500)
    assert "on its way" not in page.inner_text(".ml-status")


def test_the_example_says_that_it_comes(visit: Callable[..., Any]) -> None:
    page = visit()
    held: list[Any] = []

    def hold(route: Any) -> None:
        if waiting:
            held.append(route)
        else:
            route.continue_()

    waiting = True
    page.route("**/gradio_api/queue/join*", hold)
    page.click(".ml-example")
    page.wait_for_function(
        "document.querySelector('.ml-invite').textContent.includes('on its way')"
    )
    assert page.get_attribute("#example", "aria-busy") == "true"
    waiting = False
    for route in held:
        route.continue_()
    wait(page, "s.phase === 'ready'")
    page.wait_for_selector("#example[aria-busy=false]")


def test_a_folder_is_refused_and_of_several_songs_one_is_named(
    visit: Callable[..., Any], song: Path
) -> None:
    page = visit()
    drop = """([encoded, names, folder]) => {
      DataTransferItem.prototype.webkitGetAsEntry = () => ({isDirectory: folder});
      const bytes = Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0));
      const data = new DataTransfer();
      for (const name of names) data.items.add(new File([bytes], name));
      const drop = {dataTransfer: data, bubbles: true, cancelable: true};
      document.querySelector('#song button').dispatchEvent(new DragEvent('drop', drop));
    }"""
    encoded = base64.b64encode(song.read_bytes()).decode()
    page.evaluate(drop, [encoded, ["album"], True])
    assert page.inner_text(".ml-invite") == "This is a folder. Drop one song."
    page.wait_for_timeout(700)
    assert state(page)["phase"] == "empty"
    page.route("**/gradio_api/upload*", lambda route: None)
    page.evaluate(drop, [encoded, ["one.flac", "two.flac"], False])
    page.wait_for_function(
        "document.querySelector('.ml-invite').textContent.startsWith('Only one.flac is taken')"
    )


def test_the_recorder_can_be_put_away(visit: Callable[..., Any]) -> None:
    page = visit()
    assert not page.is_visible("#record")
    page.click("#recorder")
    assert page.is_visible("#record")
    assert page.get_attribute("#recorder", "aria-expanded") == "true"
    page.click("#recorder")
    assert not page.is_visible("#record")


def test_what_a_key_did_is_said_and_the_focus_stays_in_the_player(
    visit: Callable[..., Any], song: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ByFrequency, "pause", 0.5)
    page = visit()
    begin(page, song)
    page.focus(".ml-stop")
    page.keyboard.press("Enter")
    wait(page, "s.phase === 'stopped'")
    assert page.evaluate("document.activeElement.className") == "ml-on"
    page.keyboard.press("Enter")
    wait(page, "s.phase === 'finished'")
    assert page.evaluate("document.activeElement.className") == "ml-play"
    said = "document.querySelector('.ml-said-loop').textContent.trim() === '%s'"
    for keys, text in (
        ("1", "Vocals muted"),
        ("1", "Vocals unmuted"),
        ("Shift+Digit2", "Drums solo"),
        ("Shift+Digit2", "Drums solo off"),
        ("o", "Original"),
        ("a", "Stems"),
    ):
        page.keyboard.press(keys)
        page.wait_for_function(said % text)
    page.evaluate("window.studio.transport.setLoop([1, 3])")
    page.keyboard.press("ArrowRight")
    page.wait_for_function(said % "Loop off")
    tab(page, "Compare")
    page.focus(".ml-deck[data-key=o]")
    page.evaluate("document.querySelector('#go-b button, button#go-b').click()")
    wait(page, "s.phase === 'finished' && s.ready.b === 882000")
    assert page.evaluate("document.activeElement.dataset.key") == "o", "the row was built anew"
    page.keyboard.press("b")
    page.wait_for_function(said % "B, Fullband small")
    page.click(".ml-blind-start")
    page.click(".ml-vote[data-vote=x]")
    page.wait_for_function(said % "1 choice so far. X and Y are dealt anew after each.")
    page.click(".ml-reveal")
    page.wait_for_function(
        "document.querySelector('.ml-said-loop').textContent.includes('Somebody who only guesses')"
    )


# --------------------------------------------------------------------------- views


def test_the_picture_that_an_address_asks_for_comes_with_the_stems(
    visit: Callable[..., Any],
) -> None:
    page = visit("?preset=paper_small&view=masks&example=francium")
    wait(page, "s.phase === 'ready'")
    page.wait_for_function("document.querySelectorAll('#views input').length === 1")
    tab(page, "Share")
    page.wait_for_function(
        "document.querySelector('#settings-link textarea, #settings-link input')"
        ".value.includes('view=masks')"
    )
    tab(page, "Views")
    page.click("#go")
    wait(page, "s.phase === 'finished'")
    page.wait_for_selector("#views input[value=masks]:checked")
    page.wait_for_function(
        "document.querySelectorAll('#view .js-plotly-plot .subplot').length === 4"
    )


def test_views_come_when_they_are_opened_and_a_click_seeks(
    visit: Callable[..., Any], song: Path
) -> None:
    page = visit()
    separate(page, song)
    assert page.locator("#view .js-plotly-plot").count() == 0
    tab(page, "Views")
    page.wait_for_selector("#view .js-plotly-plot .heatmaplayer image, #view .js-plotly-plot .hm")
    page.get_by_role("radio", name="Masks").click()
    page.wait_for_function("document.querySelectorAll('#view .js-plotly-plot .hm').length === 4")
    assert "14.7 kHz" in page.inner_text("#view")
    page.locator("#view .js-plotly-plot").scroll_into_view_if_needed()
    box = page.locator("#view .js-plotly-plot").bounding_box()
    axis = page.evaluate(
        "(() => { const x = document.querySelector('#view .js-plotly-plot')._fullLayout.xaxis;"
        " return [x._offset, x._length]; })()"
    )
    page.mouse.click(box["x"] + axis[0] + axis[1] / 2, box["y"] + 80)
    wait(page, "Math.abs(s.position - 10) < 0.2")
    page.wait_for_timeout(400)
    line = page.locator(".ml-playhead").bounding_box()
    assert line["x"] == pytest.approx(box["x"] + axis[0] + axis[1] / 2, abs=4)
    look(page, "views")
    # what was chosen with the mouse keeps the focus, and not the player's keys
    page.get_by_role("radio", name="Masks").click()
    page.keyboard.press(" ")
    wait(page, "s.playing")
    page.keyboard.press("2")
    wait(page, "s.levels.a[1] < 0.01")
    tab(page, "Compare")
    page.keyboard.press(" ")
    wait(page, "!s.playing")
    at = state(page)["position"]
    page.keyboard.press("ArrowRight")
    assert state(page)["position"] == pytest.approx(at + 5, abs=0.01)
    page.get_by_role("tab", name="Views", exact=True).focus()
    page.keyboard.press(" ")
    page.wait_for_selector("[role=tab][aria-selected=true]:has-text('Views')")
    assert not state(page)["playing"]


# --------------------------------------------------------------------------- A/B


def test_a_and_b_switch_without_a_gap_and_blind(
    visit: Callable[..., Any], song: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = visit()
    separate(page, song)
    tab(page, "Compare")
    page.get_by_label("Preset B").click()
    page.get_by_role("option", name="Paper small").click()
    page.wait_for_function(
        "document.querySelector('#price-b').textContent.includes('This is what A is')"
    )
    assert page.is_disabled("#go-b")
    page.get_by_label("Preset B").click()
    page.get_by_role("option", name="Fullband small").click()
    monkeypatch.setattr(ByFrequency, "pause", 1.0)
    page.click("#go-b")
    wait(page, "s.phase === 'running' && s.ready.b > 0")
    assert page.is_disabled(".ml-deck[data-key=diff]")
    assert page.is_disabled(".ml-blind-start")
    page.keyboard.press("b")
    wait(page, "s.active === 'b'")
    tab(page, "Take away")  # of B there is nothing to take yet
    assert suggested(download(page, "take-drums")).endswith("-drums-paper_small.wav")
    monkeypatch.setattr(ByFrequency, "pause", 0.0)
    page.keyboard.press("a")
    tab(page, "Compare")
    wait(page, "s.phase === 'finished' && s.ready.b === 882000")
    assert state(page)["takes"] == ["paper_small", "fullband_small"]
    assert page.inner_text(".ml-status").startswith("B is done: 0:20 of music")
    look(page, "compare")
    page.click(".ml-play")
    wait(page, "s.position > 1 && s.level > 0.05")
    run = []
    page.keyboard.press("b")
    for _ in range(12):
        run.append(state(page))
        page.wait_for_timeout(50)
    assert not any(s["waiting"] for s in run)
    assert all(s["level"] > 0.02 for s in run), "no silence at the switch"
    steps = np.diff([s["position"] for s in run]) - np.diff([s["time"] for s in run])
    assert np.abs(steps).max() < 0.03, "the playhead goes on with the clock"
    wait(page, "s.active === 'b' && s.buses.a < 0.01 && s.buses.b > 0.9")
    # what is taken away is what is heard
    with page.expect_download() as started:
        said = page.evaluate(
            "() => { document.querySelector('[aria-label=\"Download drums\"]').click();"
            " return document.querySelector('.ml-status').textContent; }"
        )
    assert said == "Preparing the drums to be taken away …"
    page.wait_for_function("!document.querySelector('.ml-status').textContent.includes('Prepar')")
    assert started.value.suggested_filename.endswith("-drums-fullband_small.wav")
    # B gives the bass to the vocals: its vocals alone are louder, and turned down to match
    page.get_by_role("button", name="Solo vocals").click()
    energy = {name: LEVELS[name] ** 2 for name in SOURCES}
    wanted = (energy["vocals"] / (energy["vocals"] + energy["bass"])) ** 0.5
    page.wait_for_timeout(400)
    assert state(page)["buses"]["b"] == pytest.approx(wanted, abs=0.02)
    page.click(".ml-deck[data-key=diff]")
    wait(page, "s.buses.a > 0.99 && s.buses.b < -0.99")
    page.get_by_role("button", name="Solo vocals").click()
    # all stems together are the same song in A and in B: nothing is left
    wait(page, "s.playing && s.level < 0.002")

    page.click(".ml-blind-start")
    assert page.locator(".ml-deck").all_inner_texts() == ["Original", "X", "Y"]
    assert "small" not in page.inner_text(".ml-player").lower()
    other = "+document.querySelector('[data-stem=other]').style.getPropertyValue('--level') > 0.1"
    heard = set()
    for key, deck in (("a", "x"), ("b", "y"), ("x", "x"), ("y", "y")):
        page.keyboard.press(key)
        # the switch waits until what is switched to sounds
        page.wait_for_selector(f".ml-deck[data-key={deck}][aria-pressed=true]")
        wait(page, "s.playing && s.level > 0.02")
        page.wait_for_function(other)
        heard.add(state(page)["active"])
    assert heard == {"a", "b"}, "the meters of both move alike"
    for letter in ("x", "same", "y"):
        page.click(f"[data-vote={letter}]")
    assert state(page)["blind"] == {"rounds": 3, "revealed": False}
    look(page, "blind")
    page.click(".ml-reveal")
    verdict = page.inner_text(".ml-verdict")
    a, b, same = (
        int(n) for n in re.findall(r"(\d+) of 3|difference: (\d+)", verdict) for n in n if n
    )
    assert (a + b, same) == (2, 1)
    decks = page.locator(".ml-deck").all_inner_texts()
    assert [deck[:1] for deck in decks] == ["O", "A", "B", "A"], "which is which is told"
    page.keyboard.press("b")
    wait(page, "s.active === 'b'")
    # another result is another test
    page.click(".ml-blind-again")
    tab(page, "Compare")
    assert page.is_disabled("#go-b")
    assert "choose another preset for B" in page.inner_text("#price-b")
    otherwise(page)
    page.click("#go-b")
    wait(page, "s.blind === null && s.phase === 'running'")
    wait(page, "s.phase === 'finished' && s.ready.b === 882000")
    assert page.locator(".ml-blind-start").is_visible()


def test_who_comes_back_to_a_growing_b_hears_no_hole(
    visit: Callable[..., Any], song: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = visit()
    separate(page, song)
    tab(page, "Compare")
    monkeypatch.setattr(ByFrequency, "pause", 3.0)
    page.click("#go-b")
    wait(page, "s.phase === 'running' && s.ready.b > 0")
    reached = state(page)["ready"]["b"]
    page.evaluate("window.studio.transport.setLoop([1, 6])")  # which B does not fill yet
    assert RATE < reached < 6 * RATE
    page.click(".ml-play")
    wait(page, "s.playing && s.level > 0.05")
    page.keyboard.press("b")
    wait(page, "s.active === 'b' && s.level > 0.05")
    page.keyboard.press("a")
    wait(page, "s.active === 'a'")
    page.wait_for_function(
        "window.studio.transport.pieces.some((piece) => piece.from + piece.length === 6)"
    )
    wait(page, "s.ready.b > 6 * 44100")
    page.keyboard.press("b")
    wait(page, "s.active === 'b'")
    page.wait_for_function(
        """() => {
          const {pieces, context} = window.studio.transport;
          const left = pieces.filter((p) => p.when + p.length > context.currentTime + 0.1);
          return left.length && left.every((p) => {
            const node = p.nodes.get('b')?.[0]?.node;
            return node && 2 * p.k + node.buffer.duration >= p.from + p.length - 1e-3;
          });
        }""",
        timeout=3000,  # a hole does not heal before the loop comes round
    )
    monkeypatch.setattr(ByFrequency, "pause", 0.0)
    wait(page, "s.phase === 'finished'")


def test_a_failed_run_can_go_on(
    visit: Callable[..., Any], song: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = visit()
    upload(page, song)
    monkeypatch.setattr(ByFrequency, "pause", 1.0)
    page.click("#go")
    wait(page, "s.ready.a > 0")

    def broken(*_: object) -> Tensor:
        raise RuntimeError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(ByFrequency, "forward", broken)
        wait(page, "s.phase === 'failed'")
    kept = state(page)["ready"]["a"]
    assert 0 < kept < 882000
    monkeypatch.setattr(ByFrequency, "pause", 0.0)
    page.click(".ml-on")
    wait(page, "s.phase === 'finished' && s.ready.a === 882000")


def test_parts_of_different_length_are_played_as_they_are(
    visit: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quiet beginning, which is all that B has, says nothing about the loudness of A."""
    path = tmp_path / "crescendo.flac"
    mixture = torch.stack([tone(name, 20.0) for name in SOURCES]).sum(0)
    audio.save(path, mixture * torch.linspace(0, 1, mixture.shape[-1]) ** 2, RATE)
    page = visit()
    separate(page, path)
    monkeypatch.setattr(ByFrequency, "pause", 1.0)
    tab(page, "Compare")
    page.click("#go-b")
    wait(page, "s.ready.b > 0 && s.ready.b < 882000")
    page.click(".ml-stop")
    wait(page, "s.phase === 'stopped' && s.ready.b > 0")
    page.click(".ml-deck[data-key=a]")
    page.click(".ml-play")
    wait(page, "s.playing")
    wait(page, "s.buses.a > 0.99")
    assert "as they are" in page.inner_text(".ml-compare .ml-note")
    assert page.is_disabled(".ml-blind-start"), "where B ends would tell which it is"
    # nor does who asks for B after its end lose the music
    page.evaluate("window.studio.seek(15)")
    wait(page, "s.position > 15 && s.level > 0.05")
    page.keyboard.press("b")
    assert "nothing after 0:0" in page.inner_text(".ml-status")
    now = state(page)
    assert (now["active"], now["playing"]) == ("a", True)
    assert now["position"] > 15
    page.evaluate("window.studio.seek(1)")
    assert "nothing after" not in page.inner_text(".ml-status")
    page.keyboard.press("b")
    wait(page, "s.active === 'b' && s.level > 0")


def test_what_is_heard_is_behind_what_is_played_by_the_outputs_latency(
    visit: Callable[..., Any],
) -> None:
    heard = """([round, at, loop]) => {
      const t = Object.create(Object.getPrototypeOf(window.studio.transport));
      Object.assign(t, {playing: true, rate: 44100, run: 1, loop, position: 0, speed: 1});
      t.context = {currentTime: 100, outputLatency: 0.25};
      t.pieces = [{run: 1, round, from: 20, when: 100 - (at - 20), length: 2}];
      return t.heardAt();
    }"""
    page = visit()
    for comes_round, at, loop, place in (
        (False, 21.0, None, 20.75),
        (False, 21.0, [20, 24], 20.75),
        (False, 20.1, [20, 24], 20.0),
        (True, 20.1, [20, 24], 23.85),
    ):
        assert page.evaluate(heard, [comes_round, at, loop]) == pytest.approx(place, abs=1e-6)


def test_the_odds_of_a_blind_test(visit: Callable[..., Any]) -> None:
    page = visit()
    chance = "Object.assign(new window.studio.Blind(), {votes: {a: %d, b: %d, same: 3}}).chance"
    for a, b, wanted in ((5, 0, 2 / 32), (4, 1, 12 / 32), (1, 1, 1.0), (8, 2, 112 / 1024)):
        assert page.evaluate(chance % (a, b)) == pytest.approx(wanted)


# --------------------------------------------------------------------------- taking away


def test_what_is_downloaded_is_what_was_separated(
    visit: Callable[..., Any], song: Path, tmp_path: Path
) -> None:
    page = visit()
    separate(page, song)
    path = download(page, "take-vocals")
    assert suggested(path) == "Nobody - Four tones-vocals-paper_small.wav"
    # the middle: the stand-in rings where a segment of it begins and ends
    middle = slice(5 * RATE, 15 * RATE)
    torch.testing.assert_close(
        audio.load(path)[:, middle], tone("vocals", 20.0)[:, middle], rtol=0, atol=2e-3
    )
    assert audio.probe(path).tags["title"] == "Four tones (vocals)"

    page.get_by_role("button", name="Mute bass").click()
    mix = audio.load(download(page, "take-mix"))
    wanted = sum(tone(name, 20.0) for name in SOURCES if name != "bass")
    torch.testing.assert_close(mix[:, middle], wanted[:, middle], rtol=0, atol=4e-3)

    page.get_by_label("Format").click()
    page.get_by_role("option", name="FLAC").click()
    with page.expect_download() as started:
        page.click("#take-all")
        said = page.evaluate(BUSY)
    assert said == ["true", "Preparing the zip to be taken away …"]
    page.wait_for_function(f"(({BUSY})())[0] === 'false'")
    assert ".zip is ready" in page.inner_text("#take-note")
    archive = Path(started.value.path())
    with zipfile.ZipFile(archive) as files:
        assert sorted(files.namelist()) == [
            f"Nobody - Four tones-{name}-paper_small.flac" for name in sorted(SOURCES)
        ]
        files.extractall(tmp_path)
    total = sum(audio.load(file) for file in tmp_path.glob("*.flac"))
    torch.testing.assert_close(total, audio.load(song), rtol=0, atol=2e-4)
    # from the lane, too
    with page.expect_download() as started:
        page.get_by_role("button", name="Download drums").click()
    assert started.value.suggested_filename.endswith("-drums-paper_small.flac")


BUSY = """() => {
  const note = document.querySelector('#take-note p')?.textContent;
  return [document.querySelector('#take-all').getAttribute('aria-busy'), note];
}"""


# --------------------------------------------------------------------------- links


def test_a_loop_is_taken_away_alone(visit: Callable[..., Any], song: Path) -> None:
    page = visit()
    separate(page, song)
    assert not page.locator("#only-loop").is_visible(), "there is none"
    page.evaluate("window.studio.transport.setLoop([4, 6.5]); window.studio.transport.onchange()")
    assert page.inner_text(".ml-loopspan") == "0:04.0 – 0:06.5"
    assert audio.load(download(page, "take-bass")).shape[-1] == 882000
    page.check("#only-loop input")
    path = download(page, "take-bass")
    assert "-bass-from-4.00s-" in suggested(path)
    assert audio.load(path).shape[-1] == 110250
    page.keyboard.press("Escape")
    assert not page.locator("#only-loop").is_visible()
    assert audio.load(download(page, "take-bass")).shape[-1] == 882000


def test_a_mix_is_taken_away_as_it_is_heard(visit: Callable[..., Any], song: Path) -> None:
    page = visit()
    separate(page, song)
    assert not page.locator("#as-heard").is_visible(), "it is heard as it is"
    page.select_option(".ml-speed", "0.5")
    assert audio.load(download(page, "take-karaoke")).shape[-1] == 882000
    page.check("#as-heard input")
    look(page, "take-away-slow")
    path = download(page, "take-karaoke")
    assert "-karaoke-50pc-" in suggested(path)
    assert audio.load(path).shape[-1] == 2 * 882000
    assert audio.load(download(page, "take-bass")).shape[-1] == 882000
    page.select_option(".ml-speed", "1")
    assert not page.locator("#as-heard").is_visible()
    assert audio.load(download(page, "take-karaoke")).shape[-1] == 882000


def test_a_shared_link_opens_elsewhere_after_a_restart_until_it_is_deleted(
    visit: Callable[..., Any], song: Path, server: Server
) -> None:
    page = visit()
    separate(page, song)
    tab(page, "Compare")
    page.click("#go-b")
    wait(page, "s.phase === 'finished' && s.ready.b === 882000")
    tab(page, "Share")
    page.click("#share-make")
    box = page.locator("#share-link textarea, #share-link input").first
    page.wait_for_function(
        "document.querySelector('#share-link textarea, #share-link input')"
        "?.value.startsWith('http')"
    )
    query = box.input_value().removeprefix(server.address.rstrip("/") + "/")
    assert re.fullmatch(r"\?r=[A-Za-z0-9_-]{22}", query)
    assert "UTC" in page.inner_text("#share-until")
    key = page.locator("#share-delete-link textarea, #share-delete-link input").first.input_value()
    look(page, "share")
    # a new result has no link yet; the old one stays within reach
    shared = state(page)["serials"]
    otherwise(page)
    page.click("#go")
    wait(page, f"s.phase === 'finished' && s.serials[0] !== '{shared[0]}'")
    assert not page.is_visible("#share-link")
    look(page, "share-earlier")
    old = page.locator("#share-earlier a")
    assert {a.get_attribute("target") for a in old.all()} == {"_blank"}, "this page stays as it is"
    assert [a.get_attribute("href") for a in old.all()] == [query, "?" + key.partition("?")[2]]

    server.restart()
    guest = visit(query, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    wait(guest, "s.phase === 'finished' && s.takes.length === 2")
    assert "shared result" in guest.inner_text(".ml-status")
    guest.tap(".ml-play")
    wait(guest, "s.playing && s.level > 0.05")
    guest.tap(".ml-deck[data-key=b]")
    wait(guest, "s.active === 'b'")
    guest.wait_for_selector("#slot", state="visible")
    assert guest.is_checked("#slot input[value=b]")
    assert guest.evaluate("document.documentElement.scrollWidth") <= 390
    result, desk = (guest.locator(f"#{name}").bounding_box() for name in ("stage", "desk"))
    assert result["y"] < desk["y"], "on a phone the result comes first"
    look(guest, "phone")
    # a guest who separates again works on a copy: the shared result stays what it was
    otherwise(guest)
    guest.tap("#go")
    wait(guest, f"s.phase === 'finished' && s.serials[0] !== '{shared[0]}'")
    again = visit(query)
    wait(again, "s.takes.length === 2")
    assert state(again)["serials"] == shared

    gone = visit("?" + key.partition("?")[2])
    gone.wait_for_function("location.search === ''")
    late = visit(query)
    late.wait_for_function("document.querySelector('.ml-invite').textContent.includes('expired')")
    look(late, "gone")


def test_settings_can_be_written_by_hand(visit: Callable[..., Any]) -> None:
    page = visit("?preset=fullband_small&preset_b=paper_small&view=song&example=francium")
    wait(page, "s.phase === 'ready'")
    assert "Francium" in page.inner_text(".ml-name")
    page.wait_for_function(
        "document.querySelector('#preset input').value.startsWith('Fullband small')"
    )
    assert page.get_by_role("tab", name="Views").get_attribute("aria-selected") == "true"
    tab(page, "Share")
    page.wait_for_function(
        "/^http.*[?]preset=fullband_small&preset_b=paper_small$/.test("
        "document.querySelector('#settings-link textarea, #settings-link input').value)"
    )
    nonsense = visit("?preset=__proto__&view=%3Cscript%3E&r=..%2F..%2Fetc&example=x")
    assert nonsense.locator("#go").is_visible()


# --------------------------------------------------------------------------- what goes wrong


def test_errors_are_one_sentence_and_the_page_goes_on(
    visit: Callable[..., Any], song: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "holiday.mp3"
    bad.write_text("these are not the sounds you are looking for " * 50)
    page = visit()
    page.set_input_files("#song input[type=file]", bad)
    toast = page.get_by_test_id("toast-body").first
    toast.wait_for()
    assert "holiday.mp3" in toast.inner_text()
    assert "Traceback" not in toast.inner_text()
    look(page, "error")
    separate(page, song)


def test_a_preset_without_weights_cannot_be_run(visit: Callable[..., Any], song: Path) -> None:
    page = visit()
    upload(page, song)
    page.get_by_label("Preset", exact=True).click()
    page.get_by_role("option", name=re.compile("Paper large")).click()
    page.wait_for_function("document.querySelector('#price').innerText.includes('cannot run')")
    assert page.is_disabled("#go")


def test_a_preset_chosen_while_the_song_is_read_counts(
    visit: Callable[..., Any], song: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, go_on, prepare = Event(), Event(), jobs.prepare

    def slow(*arguments: Any, **options: Any) -> jobs.Song:
        reading.set()
        go_on.wait(60)
        return prepare(*arguments, **options)

    monkeypatch.setattr(jobs, "prepare", slow)
    page = visit()
    page.set_input_files("#song input[type=file]", song)
    assert reading.wait(60)
    page.get_by_label("Preset", exact=True).click()
    page.get_by_role("option", name=re.compile("Paper large")).click()
    page.wait_for_function("document.querySelector('#price').innerText.includes('cannot run')")
    go_on.set()
    wait(page, "s.phase === 'ready'")
    page.wait_for_function(
        "document.querySelector('#price').innerText.includes('cannot run')"
        " && document.querySelector('#go').disabled"
    )


def test_on_a_phone_a_preset_without_weights_says_so(visit: Callable[..., Any], song: Path) -> None:
    page = visit("?preset=paper_large", viewport={"width": 390, "height": 844})
    told = "document.querySelector('#price')?.innerText.includes('cannot run')"
    page.wait_for_function(told)  # who brings a song before that has not waited for the address
    upload(page, song)
    page.wait_for_function(told)
    page.click(".ml-go")
    assert "cannot run" in page.inner_text(".ml-status")


def test_what_is_not_finished_is_called_so(
    visit: Callable[..., Any], song: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ByFrequency, "pause", 1.0)
    page = visit()
    begin(page, song)
    page.click("#take-bass")
    page.wait_for_selector("text=still being separated")
    tab(page, "Share")
    page.click("#share-make")
    page.wait_for_function(
        "document.body.innerText.split('still being separated').length > 2", timeout=20_000
    )


def test_a_song_of_thirty_seconds_has_no_preview(visit: Callable[..., Any]) -> None:
    page = visit("?example=francium")
    wait(page, "s.phase === 'ready'")
    page.wait_for_selector("#extent input:disabled", state="attached")
    assert page.get_by_label("Whole song").is_checked(), "there is no more of it than a preview has"
    assert not page.locator("#place").is_visible()


def test_a_name_is_only_ever_text(visit: Callable[..., Any], tmp_path: Path) -> None:
    name = "<img src=x onerror=window.hit=1>${window.hit=2}{{value}}"
    path = tmp_path / "evil.flac"
    audio.save(path, tone("bass", 2.0), RATE, "flac", tags={"title": name})
    page = visit()
    upload(page, path)
    assert page.inner_text(".ml-name") == name
    assert page.evaluate("window.hit") is None


def test_a_vanished_result_is_said_so(visit: Callable[..., Any], song: Path) -> None:
    page = visit()
    separate(page, song)
    page.route("**/gradio_api/file=**", lambda route: route.fulfill(status=403, body=""))
    page.click(".ml-play")
    page.wait_for_function(
        "document.querySelector('.ml-status').textContent.includes('no longer on the server')"
    )
    assert not state(page)["playing"], "and it is not asked for again and again"


def test_stems_that_are_missing_for_a_moment_do_not_stop_the_music(
    visit: Callable[..., Any], song: Path
) -> None:
    """As where new ones have just taken their place, and the page has not heard of it."""
    page = visit()
    separate(page, song)
    missing = [404]

    def fetch(route: Any) -> None:
        if missing:
            route.fulfill(status=missing.pop(), body="")
        else:
            route.continue_()

    page.route("**/gradio_api/file=**/a-*.pcm", fetch)
    page.click(".ml-play")
    wait(page, "s.playing && s.active === 'a' && s.level > 0.05")
    assert not missing
    assert state(page)["error"] == ""


# --------------------------------------------------------------------------- for programs


def test_the_client_example_of_the_readme_runs(
    server: Server, song: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```py\n(.*?gradio_client.*?)^```", readme, re.DOTALL | re.MULTILINE)
    code = code.replace("http://127.0.0.1:7860", server.address.rstrip("/"))
    (tmp_path / "song.mp3").write_bytes(song.read_bytes())
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert len(names["files"]) == 4
    vocals = next(Path(file) for file in names["files"] if "-vocals-" in file)
    middle = slice(5 * RATE, 15 * RATE)
    torch.testing.assert_close(
        audio.load(vocals)[:, middle], tone("vocals", 20.0)[:, middle], rtol=0, atol=2e-3
    )


def test_programs_get_the_same_plain_errors(server: Server, tmp_path: Path) -> None:
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    client = Client(server.address, verbose=False)
    presets = client.predict(api_name="/presets")
    assert [name for name, known in presets.items() if known["available"]] == list(EDGES)
    path = tmp_path / "short.wav"
    audio.save(path, tone("bass", 1.0), RATE)
    for values, words in (
        ({"preset": "paper_large"}, "no trained weights"),
        ({"device": "abacus"}, "no device"),
        ({"format": "exe"}, "no format"),
    ):
        with pytest.raises(AppError, match=words):
            client.predict(handle_file(str(path)), **values, api_name="/separate")
    # whatever Gradio would have loaded, however large
    with pytest.raises(AppError, match="an address, and only files are taken"):
        client.predict(handle_file(f"{server.address}theme.css"), api_name="/separate")
