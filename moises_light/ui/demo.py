"""The page: what is where, and what calls what."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from moises_light.config import SOURCES
from moises_light.ui import jobs, words
from moises_light.ui.engine import Engine
from moises_light.ui.handlers import EXAMPLES, PREVIEW, WHOLE, Studio, explain
from moises_light.ui.player import StemPlayer, payload
from moises_light.ui.theme import css, theme

STATIC = Path(__file__).parent / "static"
HIDDEN = "ml-hidden"


def build_demo(checkpoints: str | Path | None = None, root: Path | None = None) -> gr.Blocks:
    """The page, ready to launch with `launch_options()`.

    Args:
        checkpoints: folder of the weights; `None` leaves it to `moises_light.weights`.
        root: folder of the songs; `None` puts it into Gradio's temporary folder.
    """
    studio = Studio(Engine(checkpoints), root)
    presets = studio.engine.presets()
    menu = [(words.choice(preset), name) for name, preset in presets.items()]
    runnable = [name for name, preset in presets.items() if preset.available]
    first = runnable[0] if runnable else next(iter(presets))
    devices = [(device.label, device.name) for device in studio.engine.devices]

    with gr.Blocks(
        title="Moises-Light Studio",
        analytics_enabled=False,
        fill_width=True,
        delete_cache=(600, 3600),
    ) as demo:
        token = gr.State(None, time_to_live=3600)
        gr.HTML((STATIC / "header.html").read_text(encoding="utf-8"), apply_default_css=False)
        with gr.Row(elem_id="studio", equal_height=False):
            with gr.Column(scale=0, min_width=320, elem_id="desk"):
                upload = gr.File(label="Song", elem_id="song", height=128, type="filepath")
                with gr.Row(elem_classes="ml-either"):
                    example = gr.Button("Try the example", elem_id="example", size="sm")
                    record_toggle = gr.Button("Record", elem_id="record-toggle", size="sm")
                record = gr.Audio(
                    sources=["microphone"],
                    type="filepath",
                    label="Recording",
                    visible="hidden",
                    editable=False,
                    buttons=[],
                    elem_id="record",
                )
                preset = gr.Dropdown(
                    menu, value=first, label="Preset", elem_id="preset", filterable=False
                )
                device = gr.Radio(devices, value=devices[0][1], label="Runs on", elem_id="device")
                extent = gr.Radio([WHOLE, PREVIEW], value=WHOLE, label="How much", elem_id="extent")
                place = gr.Slider(
                    0,
                    600,
                    0,
                    step=1,
                    label="The preview starts at (s)",
                    elem_id="place",
                    visible="hidden",
                )
                residual = gr.Checkbox(
                    False,
                    label="Put what no stem claims into “other”",
                    elem_id="residual",
                    info="Then the four stems add up to the song exactly.",
                )
                price = gr.Markdown(
                    words.cost(studio.engine, presets[first], devices[0][1], None), elem_id="price"
                )
                go = gr.Button(
                    "Separate", variant="primary", elem_id="go", size="lg", interactive=False
                )
                stop = gr.Button("Stop", elem_id="stop", elem_classes=HIDDEN)
            with gr.Column(scale=1, min_width=300, elem_id="stage"):
                player = StemPlayer(elem_id="player")

        # ---------------------------------------------------------------- what calls what

        def quote(name: str, on: str, song_token: str | None, how_much: str) -> tuple[str, Any]:
            known = studio.engine.presets()[name]
            song = jobs.load_song(studio.root, song_token)
            seconds = None
            if song is not None:
                seconds = studio.extent(song, how_much, 0)[1] / jobs.SAMPLE_RATE
            text = words.cost(studio.engine, known, on, seconds)
            return text, gr.update(interactive=known.available and song is not None)

        def arrive(path: str | None, name: str, on: str, how_much: str, origin: str) -> list[Any]:
            song = studio.open_song(path, origin)
            latest = max(0, int(song.seconds) - 30)
            slider = gr.update(maximum=max(1, latest), value=min(latest, int(song.seconds / 3)))
            text = "Listen to the original, or press Separate."
            return [
                song.token,
                payload(song, text=text),
                slider,
                *quote(name, on, song.token, how_much),
            ]

        def separate_a(
            song_token: str, name: str, on: str, how_much: str, at: float, rest: bool
        ) -> Iterator[tuple[Any, Any]]:
            song = studio.song(song_token)
            start, frames = studio.extent(song, how_much, at)
            jobs.forget(song, "b")
            yield from follow(song, "a", name, on, start, frames, rest)

        def follow(
            song: jobs.Song, slot: str, name: str, on: str, start: int, frames: int, rest: bool
        ) -> Iterator[tuple[Any, Any]]:
            try:
                for phase, text, take in studio.separate(song, slot, name, on, start, frames, rest):
                    busy = phase in ("queued", "running")
                    yield (
                        studio.show(song, slot, phase, text, take),
                        gr.update(interactive=not busy),
                    )
            except Exception as error:
                shown = explain(error)
                kept = jobs.load_takes(song)
                yield (
                    payload(song, kept, phase="failed", text=str(shown.message)),
                    gr.update(interactive=True),
                )
                raise shown from error

        arrival = [token, player, place, price, go]
        settings = [preset, device, extent]
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        for event, source, origin in (
            (upload.upload, upload, "upload"),
            (record.stop_recording, record, "recording"),
        ):
            event(
                lambda path, *s, origin=origin: arrive(path, *s, origin),
                [source, *settings],
                arrival,
                concurrency_limit=4,
                **quiet,
            ).then(lambda: None, None, source, **quiet)
        example.click(
            lambda *s: arrive(str(EXAMPLES / "lithium.mp3"), *s, "example"),
            settings,
            arrival,
            concurrency_limit=4,
            **quiet,
        )
        record_toggle.click(lambda: gr.update(visible=True), None, record, queue=False, **quiet)
        for control in settings:
            control.change(
                quote, [preset, device, token, extent], [price, go], queue=False, **quiet
            )
        extent.change(
            lambda how: gr.update(visible=True if how == PREVIEW else "hidden"),
            extent,
            place,
            queue=False,
            **quiet,
        )
        go.click(
            separate_a,
            [token, preset, device, extent, place, residual],
            [player, go],
            concurrency_limit=20,
            concurrency_id="separate",
            **quiet,
        ).then(quote, [preset, device, token, extent], [price, go], **quiet)
        stop.click(studio.stop, token, None, queue=False, **quiet)

    demo.queue(max_size=16, default_concurrency_limit=4)
    demo.studio = studio
    return demo


def launch_options() -> dict[str, Any]:
    """What `Blocks.launch` needs for this page: its look, and nothing that phones home."""
    return {
        "theme": theme(),
        "css": css(),
        "max_file_size": "120mb",
        "run_history": False,
        "enable_monitoring": False,
        "ssr_mode": False,
        "footer_links": ["api"],
        "mcp_server": os.environ.get("MOISES_LIGHT_MCP") == "1",
    }
