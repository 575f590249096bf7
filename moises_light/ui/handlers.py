"""The border between the page and the work: short functions, plain words when something fails."""

from __future__ import annotations

import atexit
import errno
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from moises_light.config import configs
from moises_light.ui import export, jobs, plots, words
from moises_light.ui.engine import Engine
from moises_light.ui.player import payload
from moises_light.ui.share import Shares

log = logging.getLogger(__name__)

PREVIEW_SECONDS = 30.0
KEEP_SECONDS = 2 * 3600.0
KEEP_FREE_BYTES = 2 << 30
TICK = 0.4
PATIENCE = 20.0
"""Seconds in which the run of a page that was left has nearly always come to its next block."""
LONGEST_WAIT = 300.0
"""Seconds after which a page no longer waits for the run of another one to end."""
SPARE_BYTES = 64 << 20
"""What a run leaves free on the disk."""
FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
GONE = "This song is no longer on the server. Drop it once more."
WHOLE, PREVIEW = "Whole song", "30 s preview"
UPLOAD = re.compile("[0-9a-f]{64}")
"""What Gradio calls the folder of an uploaded file."""


def explain(error: Exception) -> gr.Error:
    """Anything that went wrong as one sentence for the page; what was not foreseen is logged."""
    if isinstance(error, gr.Error):
        return error
    if isinstance(error, ValueError):
        return gr.Error(_sentence(str(error)), 12)
    if isinstance(error, OSError) and error.errno in FULL:
        return gr.Error("The disk of this machine is full. Please try again in a while.", 12)
    if isinstance(error, OSError) and error.errno in FORBIDDEN:
        log.error("no right to write", exc_info=error)
        return gr.Error(
            "This server may not write into its folder, so it can take no songs. Tell who runs it.",
            12,
        )
    log.error("unforeseen", exc_info=error)
    return gr.Error("Something broke while working on this song. Please try once more.", 12)


def _sentence(text: str) -> str:
    """A message as a sentence; a file's name at its front stays as it is written."""
    first = text.partition(" ")[0]
    front = text[:1].upper() + text[1:] if first.isalpha() else text
    return front if front.endswith(".") else f"{front}."


@dataclass
class Run:
    """A run of a visitor's song, from the click to its end.

    Args:
        song: what is separated.
        session: of the visitor's page.
        stop: set when it shall end with what is there.
        left: whether the visitor has gone on to another song.
    """

    song: jobs.Song
    session: str | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    left: bool = False


class Studio:
    """What all visitors share: the networks, the line in front of them, the folder of songs.

    Args:
        engine: runs the presets.
        root: folder of the songs; by default inside Gradio's temporary folder, whose files
            Gradio serves by their path. A path holds 128 random bits, so nobody guesses one.
        shares: the shared results.
    """

    def __init__(
        self,
        engine: Engine | None = None,
        root: Path | None = None,
        shares: Shares | None = None,
    ):
        self.engine = engine or Engine()
        self.root = root or Path(get_upload_folder()) / "studio"
        self.shares = shares or Shares()
        self.turnstile = jobs.Turnstile()
        self._runs: dict[str, Run] = {}

    # ------------------------------------------------------------------ a song comes in

    def open_song(self, path: str | None, origin: str = "upload") -> jobs.Song:
        """Decode a file, or say in one sentence why not."""
        if not path:
            raise gr.Error("Choose a song first.")
        try:
            self.make_room()
            self._mark_upload(path)
            # a browser calls every recording alike
            now = time.strftime("Recording %Y-%m-%d %H.%M UTC", time.gmtime())
            name = now if origin == "recording" else ""
            return jobs.prepare(path, self.root, name=name, origin=origin)
        except Exception as error:
            raise explain(error) from error

    def make_room(
        self, needed: int = 0, spare: int = KEEP_FREE_BYTES, what: str = "another song"
    ) -> None:
        """Sweep where less than `spare` bytes would be free with `needed` bytes more.

        Raises:
            ValueError: if that did not help.
        """
        # names are what opens a song: other users of this machine must not list them
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if shutil.disk_usage(self.root).free < spare + needed:
            self.sweep(KEEP_SECONDS / 4)
            if shutil.disk_usage(self.root).free < spare + needed:
                raise ValueError(f"there is no room for {what} right now; try again later")

    def open_link(self, link: str) -> jobs.Song:
        """The song of a shared result.

        Raises:
            ValueError: if there is no such link, or no room to open it.
        """
        return self.shares.open(link, self.root, self.make_room)

    def song(self, token: str | None) -> jobs.Song:
        """The visitor's song.

        Raises:
            gr.Error: if there is none, or it has been cleared away.
        """
        song = jobs.load_song(self.root, token)
        if song is None:
            raise gr.Error(GONE if token else "Choose a song first.")
        song.touch()
        return song

    def keep(self, token: str | None) -> None:
        """Keep the visitor's song, if it is still there, as if they had just used it."""
        song = jobs.load_song(self.root, token)
        if song is not None:
            with suppress(OSError):
                song.touch()

    def take(self, song: jobs.Song, slot: str) -> jobs.Take:
        """A take that is there.

        Raises:
            gr.Error: if there is none.
        """
        take = jobs.load_take(song, slot)
        if take is None and self.is_busy(song.token):
            raise gr.Error(
                "This song is still being separated. Wait for it, or press Stop and take what is "
                "there."
            )
        if take is None:
            raise gr.Error("Nothing is separated yet. Press Separate first.")
        return take

    def own(self, song: jobs.Song, *slots: str) -> jobs.Song:
        """The song, or a copy of it where others have opened the same link."""
        return jobs.fork(song, *slots) if song.origin == "link" else song

    # ------------------------------------------------------------------ separation

    def alike(self, song: jobs.Song, slot: str, asked: jobs.Asked) -> jobs.Take | None:
        """The take that is there, if it was asked for just like this."""
        take = jobs.load_take(song, slot)
        return take if take is not None and take.asked == asked else None

    def is_made(self, song: jobs.Song, slot: str, asked: jobs.Asked) -> bool:
        """Whether a run would only make once more what is there, see `alike`."""
        take = self.alike(song, slot, asked)
        return take is not None and take.state == "finished"

    def extent(self, song: jobs.Song, extent: str, at: float) -> tuple[int, int]:
        """First sample and number of samples of what shall be separated."""
        if extent != PREVIEW:
            return 0, song.frames
        frames = min(song.frames, int(PREVIEW_SECONDS * jobs.SAMPLE_RATE))
        start = int(max(0.0, at)) * jobs.SAMPLE_RATE  # whole seconds, as the page shows them
        return min(start, song.frames - frames), frames

    def has_parts(self, song: jobs.Song) -> bool:
        """Whether a preview of a song is less than all of it, by a second at least."""
        return song.seconds >= PREVIEW_SECONDS + 1

    @contextmanager
    def run(self, song: jobs.Song, session: str | None = None) -> Iterator[Run]:
        """Room for a run of a song; it can be stopped or left while this is open.

        Raises:
            gr.Error: if the song has a run already: two would write the same files.
        """
        run = Run(song, session)
        if self._runs.setdefault(song.token, run) is not run:
            raise gr.Error("This song is being separated already. Wait for it, or press Stop.")
        try:
            yield run
        finally:
            del self._runs[song.token]

    def is_busy(self, token: str | None, session: str | None = None) -> bool:
        """Whether a song, or the page of that session, has a run that has not ended."""
        return token in self._runs or bool(self._of_session(session))

    def wait_for(self, token: str) -> Iterator[bool]:
        """Wait until a song has no run, at most `LONGEST_WAIT`; yields whether it is long."""
        begun = time.monotonic()
        while self.is_busy(token) and (waited := time.monotonic() - begun) < LONGEST_WAIT:
            yield waited > PATIENCE
            time.sleep(TICK / 2)

    def _of_session(self, session: str | None) -> list[Run]:
        return [run for run in list(self._runs.values()) if session and run.session == session]

    def separate(
        self, run: Run, slot: str, asked: jobs.Asked
    ) -> Iterator[tuple[str, str, jobs.Take]]:
        """Wait in line, then separate; what was stopped before it was whole goes on.

        Yields:
            The phase ("queued", "running", "finished" or "stopped"), a line on it, and the take.

        Args:
            run: from `run`.
            slot: "a" or "b". A new A of another part of the song forgets B; one that goes on does
                not. Until its first block is there, so is what was there before.
            asked: what of the song, and how; see `extent`.

        Raises:
            ValueError: if the preset or the device is not there, or the line is full.
        """
        known = self.engine.check(asked.preset, asked.device)
        take = jobs.Take(
            slot=slot,
            **asked._asdict(),
            sources=configs[asked.preset].sources,
            cutoff=known.cutoff,
            parameters=known.parameters,
        )
        song, stop = run.song, run.stop
        take = jobs.unfinished(song, take) or take
        self.make_room(take.missing, SPARE_BYTES, "these stems")
        before = {there.slot: there for there in jobs.load_takes(song)}
        ticket = self.turnstile.enter()
        try:
            if not take.ready:
                jobs.ask(song, take)
            while place := self.turnstile.place(ticket):
                yield "queued", words.waiting(place), take
                if stop.wait(TICK):
                    jobs.answer(song)
                    take = replace(take, state="stopped")
                    yield "stopped", words.ended(take, jobs.SAMPLE_RATE, slot in before), take
                    return
            b = before.get("b")
            other = b is not None and not b.covers(asked.start, asked.frames)
            also = ("b",) if slot == "a" and other else ()
            blocks = self.engine.blocks(song, take)
            now = take
            for now in jobs.separate(song, take, blocks, stop.is_set, also=also):
                if now.ready:
                    jobs.answer(song)
                if now.state == "running":
                    yield "running", words.running(now, jobs.SAMPLE_RATE), now
            jobs.answer(song)
            if now.state == "finished":
                self.engine.learn(now)
            yield now.state, words.ended(now, jobs.SAMPLE_RATE, slot in before), now
        except Exception:  # and not where the connection is lost: who comes back can go on
            jobs.answer(song)
            raise
        finally:
            if stop.is_set():  # also where the page went before it could be told
                jobs.answer(song)
            self.turnstile.leave(ticket)

    def stop(self, token: str | None) -> None:
        """Let the visitor's run end at its next block."""
        if run := self._runs.get(token or ""):
            run.stop.set()

    def leave(self, session: str | None) -> None:
        """Let the run end that a page has begun and shows no more."""
        for run in self._of_session(session):
            run.left = True
            run.stop.set()

    def show(
        self, song: jobs.Song, slot: str, phase: str, text: str, take: jobs.Take
    ) -> dict[str, Any] | None:
        """The player's value while a take is being worked on, or has just ended."""
        takes = {t.slot: t for t in jobs.load_takes(song)}
        # what was there before can be heard until there is some of the new
        if take.ready or (slot not in takes and phase in ("queued", "running")):
            takes[slot] = take
        kept = [takes[s] for s in jobs.SLOTS if s in takes]
        return payload(song, kept, phase=phase, text=text, slot=slot, current=take)

    # ------------------------------------------------------------------ pictures and files

    def look(self, token: str | None, view: str) -> Any:
        """A picture of the song, or nothing where there is no song."""
        song = jobs.load_song(self.root, token)
        if song is None:
            return None
        try:
            return plots.draw(song, jobs.load_takes(song), view)
        except Exception as error:
            raise explain(error) from error

    def export(
        self,
        token: str | None,
        slot: str,
        what: str,
        format: str,
        faders: Any = None,
        loop: Any = None,
        pace: Any = None,
    ) -> export.Export:
        """Write a file to take away: all of the take, or the loop `[from, to]` in seconds.

        A mix also at a pace `[speed, key]`, see `export.pace_of`.
        """
        song = self.song(token)
        take = self.take(song, slot)
        if faders is not None and not isinstance(faders, dict):
            raise gr.Error("The faders could not be read. Reload the page.")
        try:
            self.make_room()
            part, played = export.loop_of(take, loop), export.pace_of(pace)
            return export.write(song, take, what, format, faders, part, played)
        except Exception as error:
            if jobs.load_take(song, slot) != take:
                raise gr.Error("These stems have just been replaced. Take the new ones.") from error
            raise explain(error) from error

    def unshare(self, token: str, key: str) -> bool:
        """Delete a link and every copy that its visitors opened; false if the key does not fit."""
        gone = self.shares.delete(token, key)
        for run in list(self._runs.values()):
            if run.song.link in gone:
                run.stop.set()
        for link in gone:
            self.shares.forget_opened(link, self.root)
        return bool(gone)

    # ------------------------------------------------------------------ housekeeping

    def sweep(self, max_age: float = KEEP_SECONDS) -> int:
        """Clear away songs that nobody has touched for long, and links that have expired.

        Gradio deletes uploads after a while, but forgets when it ends which are still there; an
        empty file named like an upload's folder remembers them here.
        """
        for run in list(self._runs.values()):  # also those that wait in line
            with suppress(OSError):
                run.song.touch()
        self._sweep_uploads(max_age)
        return jobs.sweep(self.root, max_age, KEEP_FREE_BYTES) + self.shares.sweep()

    def _mark_upload(self, path: str) -> None:
        folder = Path(path).absolute().parent
        if UPLOAD.fullmatch(folder.name) and folder.parent == Path(get_upload_folder()).absolute():
            (self.root / folder.name).touch()

    def _sweep_uploads(self, max_age: float) -> None:
        # Gradio opens one for every file that a page sends, and leaves it empty
        for left in Path(get_upload_folder()).glob("tmp*"):
            with suppress(OSError):
                about = left.stat()
                if not about.st_size and time.time() - about.st_mtime > max_age and left.is_file():
                    left.unlink()
        for mark in self.root.iterdir() if self.root.is_dir() else ():
            with suppress(OSError):  # another process may sweep, too
                if UPLOAD.fullmatch(mark.name) and time.time() - mark.stat().st_mtime > max_age:
                    shutil.rmtree(Path(get_upload_folder()) / mark.name, ignore_errors=True)
                    mark.unlink()

    def start_chores(self) -> None:
        """Measure the presets, then sweep every ten minutes, in a thread that ends before Python.

        Then, too, nothing is computed any more, see `Engine.rest`.
        """
        stop = threading.Event()

        def chores() -> None:
            if os.environ.get("MOISES_LIGHT_MEASURE", "1") != "0":
                self.engine.measure(stop)
            while not stop.is_set():
                try:
                    self.sweep()
                except OSError as error:
                    log.warning("could not sweep: %s", error)
                stop.wait(600)

        thread = threading.Thread(target=chores, name="studio-chores", daemon=True)

        def close() -> None:
            stop.set()
            thread.join()
            self.engine.rest()

        thread.start()
        atexit.register(close)
