"""The player as a Gradio component. Its page parts lie in `static/`."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr

from moises_light.config import SOURCES
from moises_light.ui import jobs
from moises_light.ui.engine import label_of
from moises_light.ui.words import facts

STATIC = Path(__file__).parent / "static"
SCRIPTS = ("stretch.js", "transport.js", "blind.js", "player.js", "views.js", "page.js")


def stem_player(**kwargs: Any) -> gr.HTML:
    """Stems on one clock. Its value is what `payload` returns, or `None` for an empty stage.

    The template is static and the value reaches the page only as data: a template that held a
    song's name would run whatever somebody wrote into it. (A function and not a subclass, since
    Gradio writes a stub file beside the source of every new component class.)
    """
    return gr.HTML(
        None,
        html_template=(STATIC / "player.html").read_text(encoding="utf-8"),
        js_on_load="\n".join((STATIC / name).read_text(encoding="utf-8") for name in SCRIPTS),
        apply_default_css=False,
        **kwargs,
    )


def payload(
    song: jobs.Song | None,
    takes: list[jobs.Take] | None = None,
    *,
    phase: str = "ready",
    text: str = "",
    slot: str = "a",
    current: jobs.Take | None = None,
) -> dict[str, Any] | None:
    """What the player needs to know, small enough to be sent after every block.

    Audio and waveforms are not in it: the player reads them from the growing files.

    Args:
        song: the song, or `None` for an empty stage.
        takes: its takes.
        phase: "ready", "queued", "running", "finished", "stopped" or "failed".
        text: one line on what goes on.
        slot: where the take belongs that is being worked on.
        current: that take, where it is not yet one of `takes`.
    """
    if song is None:
        return None
    takes = takes or []
    start = takes[0].start if takes else 0
    frames = takes[0].frames if takes else song.frames
    current = current or next((take for take in takes if take.slot == slot), None)
    ended = phase in ("finished", "stopped", "failed")
    rest = jobs.to_go_on(song) if ended else None
    return {
        "token": song.token,
        "name": song.name,
        "phase": phase,
        "text": text,
        "slot": slot,
        "facts": facts(song),
        "sources": SOURCES,
        "rate": jobs.SAMPLE_RATE,
        "headroom": jobs.HEADROOM,
        "peaksPerSecond": jobs.PEAKS_PER_SECOND,
        "start": start,
        "frames": frames,
        "songFrames": song.frames,
        "done": current.done if current and phase in ("running", "stopped") else None,
        "left": current.left if current and phase == "running" else None,
        "original": {
            "url": address(song.folder / "mixture.pcm"),
            "peaks": address(song.folder / "mixture.peaks"),
            "peak": song.peak,
        },
        "takes": [_take(song, take) for take in takes],
        "unfinished": rest is not None,
        "cut": rest is not None and rest.cut,
    }


def _take(song: jobs.Song, take: jobs.Take) -> dict[str, Any]:
    return {
        "slot": take.slot,
        "serial": take.serial,
        "preset": take.preset,
        "label": label_of(take.preset),
        "device": take.device.upper(),
        "stems": list(take.sources),
        "url": address(song.folder / f"{take.name}.pcm"),
        "peaks": address(song.folder / f"{take.name}.peaks"),
        "ready": take.ready,
        "frames": take.frames,
        "state": take.state,
        "work": round(take.work, 2),
        "cutoff": take.cutoff,
        "parameters": take.parameters,
        "gram": take.gram,
    }


def address(path: Path) -> str:
    """Address of a file in Gradio's own temporary folder, relative to the page's root."""
    return f"/gradio_api/file={quote(path.as_posix())}"
