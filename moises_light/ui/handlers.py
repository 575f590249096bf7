"""The border between the page and the work: short functions, plain words when something fails."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from moises_light.audio import AudioError
from moises_light.config import configs
from moises_light.ui import jobs, words
from moises_light.ui.engine import Engine
from moises_light.ui.player import payload

log = logging.getLogger(__name__)

PREVIEW_SECONDS = 30.0
KEEP_SECONDS = 3600.0
KEEP_FREE_BYTES = 2 << 30
TICK = 0.4
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
WHOLE, PREVIEW = "Whole song", "30 s preview"


def explain(error: Exception) -> gr.Error:
    """Anything that went wrong as one sentence for the page; what was not foreseen is logged."""
    if isinstance(error, gr.Error):
        return error
    if isinstance(error, ValueError):
        text = str(error)
        return gr.Error(text[:1].upper() + text[1:] + ("" if text.endswith(".") else "."), 12)
    if isinstance(error, OSError) and error.errno == 28:
        return gr.Error("The disk of this machine is full. Please try again in a while.", 12)
    log.error("unforeseen", exc_info=error)
    return gr.Error("Something broke while working on this song. Please try once more.", 12)


class Studio:
    """What all visitors share: the networks, the line in front of them, the folder of songs.

    Args:
        engine: runs the presets.
        root: folder of the songs; by default inside Gradio's temporary folder, whose files
            Gradio serves by their path. A path holds 128 random bits, so nobody guesses one.
    """

    def __init__(self, engine: Engine, root: Path | None = None):
        self.engine = engine
        self.root = root or Path(get_upload_folder()) / "studio"
        self.turnstile = jobs.Turnstile()
        self._stops: dict[str, threading.Event] = {}

    # ------------------------------------------------------------------ a song comes in

    def open_song(self, path: str | None, origin: str = "upload", name: str = "") -> jobs.Song:
        """Decode a file, or say in one sentence why not."""
        if not path:
            raise gr.Error("Choose a song first.")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(self.root).free < KEEP_FREE_BYTES:
                self.sweep(KEEP_SECONDS / 4)
            if shutil.disk_usage(self.root).free < KEEP_FREE_BYTES:
                raise ValueError("there is no room for another song right now; try again later")
            return jobs.prepare(path, self.root, origin=origin, name=name)
        except AudioError as error:
            log.info("not audio: %s", error)
            raise gr.Error(
                f"{Path(path).name} cannot be read as music. Try a WAV, FLAC, MP3, M4A or OGG file.",
                12,
            ) from error
        except Exception as error:
            raise explain(error) from error

    def song(self, token: str | None) -> jobs.Song:
        """The visitor's song.

        Raises:
            gr.Error: if there is none, or it has been cleared away.
        """
        song = jobs.load_song(self.root, token)
        if song is None:
            raise gr.Error(
                "This song is no longer on the server. Drop it once more."
                if token
                else "Choose a song first."
            )
        return song

    # ------------------------------------------------------------------ separation

    def extent(self, song: jobs.Song, extent: str, at: float) -> tuple[int, int]:
        """First sample and number of samples of what shall be separated."""
        if extent != PREVIEW:
            return 0, song.frames
        frames = min(song.frames, int(PREVIEW_SECONDS * jobs.SAMPLE_RATE))
        start = int(max(0.0, at) * jobs.SAMPLE_RATE)
        return min(start, song.frames - frames), frames

    def separate(
        self,
        song: jobs.Song,
        slot: str,
        preset: str,
        device: str,
        start: int,
        frames: int,
        residual: bool = False,
    ) -> Iterator[tuple[str, str, jobs.Take]]:
        """Wait in line, then separate.

        Yields:
            The phase ("queued", "running", "finished" or "stopped"), a line on it, and the take.

        Raises:
            ValueError: if the preset or the device is not there, or the line is full.
        """
        known = self.engine.check(preset, device)
        take = jobs.Take(
            slot=slot,
            preset=preset,
            device=device,
            sources=configs[preset].sources,
            start=start,
            frames=frames,
            cutoff=known.cutoff,
            parameters=known.parameters,
        )
        stop = self._stops[song.token] = threading.Event()
        ticket = self.turnstile.enter()
        try:
            while place := self.turnstile.place(ticket):
                yield "queued", words.waiting(place), take
                if stop.wait(TICK):
                    yield "stopped", words.ended(replace(take, state="stopped"), 1), take
                    return
            jobs.forget(song, slot)
            blocks = self.engine.blocks(song, take, residual)
            for take in jobs.separate(song, take, blocks, stop.is_set):  # noqa: B007
                if take.state == "running":
                    yield "running", words.running(take, jobs.SAMPLE_RATE), take
            if take.state == "finished":
                self.engine.learn(take)
            yield take.state, words.ended(take, jobs.SAMPLE_RATE), take
        finally:
            self.turnstile.leave(ticket)
            if self._stops.get(song.token) is stop:
                del self._stops[song.token]

    def stop(self, token: str | None) -> None:
        """Let the visitor's run end at its next block."""
        event = self._stops.get(token or "")
        if event is not None:
            event.set()

    def show(
        self, song: jobs.Song, slot: str, phase: str, text: str, take: jobs.Take
    ) -> dict[str, Any] | None:
        """The player's value while a take is being worked on."""
        takes = {t.slot: t for t in jobs.load_takes(song)}
        if take.ready or phase in ("running", "queued"):
            takes[slot] = take
        kept = [takes[s] for s in jobs.SLOTS if s in takes]
        return payload(song, kept, phase=phase, text=text, slot=slot)

    # ------------------------------------------------------------------ housekeeping

    def sweep(self, max_age: float = KEEP_SECONDS) -> int:
        """Clear away songs that nobody has touched for an hour."""
        return jobs.sweep(self.root, max_age, KEEP_FREE_BYTES)

    def start_chores(self) -> None:
        """Measure the presets, then sweep every ten minutes, in a thread that ends with us."""

        def chores() -> None:
            if os.environ.get("MOISES_LIGHT_MEASURE", "1") != "0":
                self.engine.measure()
            while True:
                try:
                    self.sweep()
                except OSError as error:
                    log.warning("could not sweep: %s", error)
                time.sleep(600)

        threading.Thread(target=chores, name="studio-chores", daemon=True).start()
