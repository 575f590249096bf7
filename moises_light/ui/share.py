"""Links to a result: opt-in, unguessable, until a stated day, and deleted by who made them.

    <root>/<token>/result.json       what there is, and until when
    <root>/<token>/mixture.flac      the song
    <root>/<token>/a-vocals.flac     its stems; they survive a restart of the server

The folder is never served: opening a link decodes it into a folder of a visitor's song.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from moises_light import audio
from moises_light.config import configs
from moises_light.ui import jobs
from moises_light.ui.jobs import CHANNELS, SAMPLE_RATE, Song, Take, Track

FOLDER_VARIABLE = "MOISES_LIGHT_SHARES"
DAYS_VARIABLE = "MOISES_LIGHT_SHARE_DAYS"
LIMIT_VARIABLE = "MOISES_LIGHT_SHARE_GB"
FOREIGN = "this link was made by another version of this page and cannot be opened here"


@dataclass(frozen=True)
class Link:
    """A link as its maker gets it.

    Args:
        token: opens the result.
        key: deletes it.
        expires: the time after which it is gone, in seconds since 1970.
    """

    token: str
    key: str
    expires: float


def _read(
    result: dict[str, Any], folder: Path, token: str
) -> tuple[Song, float, list[tuple[Take, float]]]:
    """The song of a link, to be decoded into `folder`, and its takes, each with its gain.

    Raises:
        ValueError: if another version of this page wrote it.
    """
    try:
        stored = {**result["song"], "folder": folder, "origin": "link", "link": token}
        gain = stored.pop("gain")
        song = Song(**stored)
        gains = [values.pop("gain") for values in result["takes"]]
        takes = [jobs.take_from(values) for values in result["takes"]]
        unknown = {take.preset for take in takes} - configs.keys()
    except (TypeError, KeyError) as error:
        raise ValueError(FOREIGN) from error
    if unknown:
        raise ValueError(FOREIGN)
    return song, gain, list(zip(takes, gains, strict=True))


def _size(path: Path) -> int:
    """Bytes of a file, 0 where it has just gone."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _own_folder() -> Path:
    """Where links are kept by default: a temporary folder that no other user of the machine has."""
    user = getattr(os, "getuid", lambda: 0)()  # Windows has one such folder for each
    return Path(tempfile.gettempdir(), f"moises-light-{user}")


class Shares:
    """The shared results in one folder.

    Args:
        root: the folder; the environment variable `MOISES_LIGHT_SHARES` or a temporary folder by
            default. On a Space a mounted volume keeps links over a rebuild.
        days: how long a link lives; `MOISES_LIGHT_SHARE_DAYS` or 7 by default.
        limit: bytes that all results may take; `MOISES_LIGHT_SHARE_GB` or 10 GB by default.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        root: Path | None = None,
        days: float | None = None,
        limit: int | None = None,
        clock: Callable[[], float] = time.time,
    ):
        self.root = root or Path(os.environ.get(FOLDER_VARIABLE) or _own_folder())
        self.days = float(os.environ.get(DAYS_VARIABLE, 7)) if days is None else days
        gigabytes = float(os.environ.get(LIMIT_VARIABLE, 10))
        self.limit = int(gigabytes * 1e9) if limit is None else limit
        self._clock = clock
        self._opened: dict[str, str] = {}
        self._doors: dict[str, threading.Lock] = {}

    def create(self, song: Song, takes: list[Take]) -> Link:
        """Store a result.

        What a link brought can be shared again, but not for longer than that link lives: see
        `delete`, too.

        Raises:
            ValueError: if there is nothing to share, no room for it, or the link that it came by
                is gone.
        """
        takes = [take for take in takes if take.ready and take.state != "running"]
        if not takes:
            raise ValueError("there is nothing to share yet; separate a song first")
        self.sweep()
        expires = self._clock() + self.days * 86400
        orphan = ValueError("the link that this song came by is gone; it cannot be shared now")
        if song.link:
            parent = self.look(song.link)
            if parent is None:
                raise orphan
            expires = min(expires, parent["expires"])
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        used = sum(map(_size, self.root.rglob("*.flac")))
        stored = song.frames + sum(take.ready * len(take.sources) for take in takes)
        needed = 2 * CHANNELS * stored
        if used + needed > self.limit or shutil.disk_usage(self.root).free < 2 * needed:
            raise ValueError("there is no room for another link right now; try again tomorrow")
        link = Link(jobs.new_token(), jobs.new_token(), expires)
        # written under another name first: half a result must never be opened
        draft = self.root / f"draft-{link.token}"
        draft.mkdir(mode=0o700)
        try:
            self._store(draft, song, takes, link)
            if song.link and self.look(song.link) is None:  # deleted while this was written
                raise orphan
            draft.rename(self.root / link.token)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        return link

    def _store(self, folder: Path, song: Song, takes: list[Take], link: Link) -> None:
        gain = audio.clip_gain(song.peak, "flac")
        with audio.Writer(folder / "mixture.flac", SAMPLE_RATE, CHANNELS, "flac") as writer:
            for block in jobs.read(song, "mixture"):
                writer.write(block[0] * gain)
        replaced = ValueError(
            "this result was replaced while the link was made; create it once more"
        )
        try:
            stored = [self._store_take(folder, song, take) for take in takes]
        except FileNotFoundError as error:
            raise replaced from error
        if jobs.load_takes(song) != takes:
            raise replaced
        result = {
            "song": {**asdict(song), "folder": "", "gain": gain},
            "takes": stored,
            "expires": link.expires,
            "key": hashlib.sha256(link.key.encode()).hexdigest(),
        }
        (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")

    def _store_take(self, folder: Path, song: Song, take: Take) -> dict[str, Any]:
        gain = audio.clip_gain(max(take.peak), "flac")
        for index, name in enumerate(take.sources):
            path = folder / f"{take.slot}-{name}.flac"
            with audio.Writer(path, SAMPLE_RATE, CHANNELS, "flac") as writer:
                for block in jobs.read(song, take.name, 0, take.ready, len(take.sources)):
                    writer.write(block[index] * gain)
        return {**asdict(take), "gain": gain}

    def look(self, token: object) -> dict[str, Any] | None:
        """What a link holds, or `None` if there is no such link (any more)."""
        if not jobs.is_token(token):
            return None
        try:
            text = (self.root / str(token) / "result.json").read_text(encoding="utf-8")
            result: dict[str, Any] = json.loads(text)
        except (OSError, ValueError):
            return None
        return result if result["expires"] > self._clock() else None

    def open(
        self, token: str, songs: Path, make_room: Callable[[int], None] = lambda needed: None
    ) -> Song:
        """Decode a link's result into a song's folder, once for all who open it.

        Args:
            token: of the link.
            songs: folder of the songs.
            make_room: called with the bytes that it takes; raises where they are not there.

        Raises:
            ValueError: if there is no such link (any more), or another version of this page made
                it.
        """
        gone = ValueError("this link has expired, was deleted, or was never there")
        if self.look(token) is None:
            raise gone
        with self._doors.setdefault(token, threading.Lock()):  # two who come at once share a copy
            result = self.look(token)
            if result is None:
                raise gone
            before = jobs.load_song(songs, self._opened.get(token))
            if before is not None:
                before.touch()
                return before
            song, gain, takes = _read(result, songs / jobs.new_token(), token)
            frames = song.frames + sum(take.ready * len(take.sources) for take, _ in takes)
            make_room(frames * CHANNELS * (4 + 2))  # float32, and 16 bits for the player
            song.folder.mkdir(parents=True, mode=0o700)
            try:
                self._decode(self.root / token, song, gain, takes)
                if self.look(token) is None:
                    raise gone
            except BaseException as error:
                shutil.rmtree(song.folder, ignore_errors=True)
                if isinstance(error, Exception) and self.look(token) is None:
                    raise gone from error  # its maker deleted it in the meantime
                raise
            self._opened[token] = song.token
            return song

    def _decode(
        self, source: Path, song: Song, gain: float, takes: list[tuple[Take, float]]
    ) -> None:
        with closing(Track(song.folder, "mixture", 1)) as track:
            for block in audio.stream(source / "mixture.flac", SAMPLE_RATE, CHANNELS):
                track.append(block[None] / gain)
        for take, take_gain in takes:
            self._restore(source, song, take, take_gain)
        song.save()

    def _restore(self, source: Path, song: Song, take: Take, gain: float) -> None:
        stems = [
            audio.stream(source / f"{take.slot}-{name}.flac", SAMPLE_RATE, CHANNELS)
            for name in take.sources
        ]
        with closing(Track(song.folder, take.name, len(take.sources))) as track:
            for blocks in zip(*stems, strict=True):
                track.append(jobs.stack(blocks) / gain)
        replace(take, ready=track.frames).save(song)

    def delete(self, token: str, key: str) -> set[str]:
        """Delete a link's result; only who has its key may. See `forget_opened` for the rest.

        Returns:
            The links that are gone: this one, and those that its visitors made of what it brought.
            Empty if there is no such link, or the key is not its.
        """
        result = self.look(token)
        if result is None or not isinstance(key, str):
            return set()
        digest = hashlib.sha256(key.encode()).hexdigest()
        if not hmac.compare_digest(digest, result["key"]):
            return set()
        gone = self._with_descendants(token)
        for each in gone:
            shutil.rmtree(self.root / each, ignore_errors=True)
        return gone

    def _with_descendants(self, token: str) -> set[str]:
        parents = {
            folder.name: result["song"].get("link")
            for folder in self.root.iterdir()
            if (result := self.look(folder.name)) is not None
        }
        family, before = {token}, set[str]()
        while family != before:
            before = family
            family = family | {child for child, parent in parents.items() if parent in family}
        return family

    def forget_opened(self, token: str, songs: Path) -> None:
        """Clear away what was decoded for the visitors of a link that is gone, also by others.

        Who separated it anew worked on a copy (`jobs.fork`), and that goes as well.
        """
        self._opened.pop(token, None)
        self._doors.pop(token, None)
        for folder in songs.iterdir() if songs.is_dir() else ():
            song = jobs.load_song(songs, folder.name)
            if song is not None and song.link == token:
                shutil.rmtree(folder, ignore_errors=True)

    def sweep(self) -> int:
        """Delete what has expired, and drafts that a crash left; returns how many went."""
        if not self.root.is_dir():
            return 0
        gone = 0
        for folder in self.root.iterdir():
            draft = folder.name.startswith("draft-")
            fresh_draft = draft and time.time() - jobs.last_touched(folder) < 3600
            ours = draft or jobs.is_token(folder.name)
            if not ours or fresh_draft or self.look(folder.name) is not None:
                continue
            shutil.rmtree(folder, ignore_errors=True)
            gone += 1
        return gone
