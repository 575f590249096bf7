"""Song folders: real songs with a file, or a folder of files, for each stem.

Read are the layouts of MUSDB18-HQ (`vocals.wav drums.wav bass.wav other.wav`), of MoisesDB (a
folder per stem, split finer, with `data.json` beside), of MUSDB18 (one `.stem.mp4` of five streams)
and anything like them in the usual formats at any rate. Files and folders whose name begins with a
dot, such as the `._vocals.wav` that macOS leaves, are no part of a song.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import soundfile
import soxr

from moises_light import audio
from moises_light.training.corpus import SAMPLE_RATE, fit

AUDIO = (".wav", ".flac", ".aif", ".aiff", ".ogg", ".opus", ".mp3", ".m4a")
"""Suffixes of the files that are read, those without loss first."""

STEMS = {
    "vocals": ("vocals", "vocal", "lead_vocals", "backing_vocals", "singing"),
    "drums": ("drums", "drum", "percussion"),
    "bass": ("bass",),
    "other": (
        *("other", "others", "guitar", "guitars", "piano", "keys", "other_keys", "synth"),
        *("strings",),
        *("bowed_strings", "wind", "brass", "plucked", "other_plucked", "accordion", "organ"),
    ),
}
"""Names of files and folders that belong to each source."""

MOISESDB = {"percussion": "other"}
"""Names that MoisesDB's official four stems (`mix_4_stems` of its package) put elsewhere."""

MUSDB_STREAMS = ("drums", "bass", "other", "vocals")
"""What the streams of a `.stem.mp4` hold, behind the mixture in the first."""

MIXTURE = ("mixture", "mix")
"""Names of files that hold the whole song."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Song:
    """A song on disk: files of each source, and the sources that it speaks for."""

    name: str
    files: dict[str, list[Path]]
    present: tuple[str, ...]


def source_of(name: str) -> str | None:
    """The source that a file or folder of that name belongs to, or None.

    >>> source_of("Other_Keys"), source_of("mixture")
    ('other', None)
    """
    for source, names in STEMS.items():
        if name.lower() in names:
            return source
    return None


def _visible(paths: Iterable[Path], folder: Path) -> list[Path]:
    """Those paths below a folder in which no name begins with a dot, sorted."""
    return [
        path
        for path in sorted(paths)
        if not any(name.startswith(".") for name in path.relative_to(folder).parts)
    ]


def _below(folder: Path) -> list[Path]:
    """All paths below a folder, as `_visible`; a linked folder is read as one that lies there."""
    found: list[Path] = []
    for top, folders, files in os.walk(folder, followlinks=True):
        here = Path(top)
        shown = [name for name in folders if not name.startswith(".")]
        folders[:] = [name for name in shown if not _leads_up(here / name)]
        found += [here / name for name in (*folders, *files)]
    return _visible(found, folder)


def _leads_up(path: Path) -> bool:
    """Whether a path is a link to a folder that it lies in: its way down would have no end."""
    above = Path(os.path.abspath(path)).parents
    return path.is_symlink() and path.resolve() in {folder.resolve() for folder in above}


def _is_song(folder: Path) -> bool:
    """Whether the stems of a song lie in a folder itself, and not the parts of one stem.

    Strings, percussion and piano in a folder named `other` are parts; in a folder named `Organ`,
    vocals and drums are not.
    """
    entries = _visible(folder.iterdir(), folder)
    names = [e.name if e.is_dir() else e.stem for e in entries]
    names = [n for n, e in zip(names, entries, strict=True) if e.is_dir() or _is_audio(e)]
    sources = {source_of(name) for name in names} - {None}
    own = source_of(folder.name) in sources
    return len(sources) > 1 + own or (
        len(sources) > own and any(name.lower() in MIXTURE for name in names)
    )


def _is_audio(path: Path) -> bool:
    return path.suffix.lower() in AUDIO


def by_loss(paths: Iterable[Path]) -> list[Path]:
    """Those that are audio, in the order of `AUDIO`."""
    return sorted(filter(_is_audio, paths), key=lambda path: AUDIO.index(path.suffix.lower()))


def _holds_songs(folder: Path) -> bool:
    """Whether a folder is a place of songs, such as an album that is called Strings."""
    below = [path for path in _below(folder) if path.is_dir()]
    return any(map(_is_song, [folder, *below]))


def find_song(folder: Path) -> Song | None:
    """The song in a folder, or None where the folder holds no stem.

    A source without a file is unknown, and the song does not speak for it. Where MoisesDB's
    `data.json` lists the whole song, it is silent instead. Percussion belongs to the drums, in
    songs of MoisesDB to `other`, as in its official four stems.
    """
    if folder.name.endswith(".stem.mp4"):
        return Song(folder.name.removesuffix(".stem.mp4"), {}, MUSDB_STREAMS)
    of_moisesdb = (folder / "data.json").is_file()
    files: dict[str, list[Path]] = {}
    unknown = []
    for entry in _visible(folder.iterdir(), folder):
        if entry.is_dir() and _holds_songs(entry):
            continue
        if entry.is_dir():
            inside = [path for path in _below(entry) if _is_audio(path)]
        else:
            inside = [entry] if _is_audio(entry) else []
        name = entry.name if entry.is_dir() else entry.stem
        source = source_of(name)
        if of_moisesdb:
            source = MOISESDB.get(name.lower(), source)
        if source is not None and inside:
            files.setdefault(source, []).extend(inside)
        elif inside and entry.stem.lower() not in MIXTURE:
            unknown.append(entry.name)
    if not files:
        return None
    for name in unknown:
        _log.warning("%s: no stem is called %s; left out", folder, name)
    files = {source: _once_each(paths) for source, paths in files.items()}
    return Song(folder.name, files, tuple(STEMS) if of_moisesdb else tuple(files))


def _once_each(files: list[Path]) -> list[Path]:
    """The files of a source without what would be added to itself: `vocals.mp3` by `vocals.wav`.

    Of one name the file stays whose suffix comes first in `AUDIO`; beside it the parts in a folder
    of that name go, too.
    """

    def name(file: Path) -> Path:
        return Path(str(file.with_suffix("")).lower())

    best: dict[Path, Path] = {}
    for file in by_loss(files):
        best.setdefault(name(file), file)
    kept = []
    for file in files:
        others = (best[key] for key in (name(file), *name(file).parents) if key in best)
        other = next((other for other in others if other != file), None)
        if other is None:
            kept.append(file)
        else:
            _log.warning("%s: the same stem as %s; left out", file, other.name)
    return kept


def find_songs(folder: Path | str) -> list[tuple[Path, Song]]:
    """The song in a folder, or every song below it, sorted by path.

    Songs are named by their way from `folder`: `A/stems` is `A - stems`.

    Raises:
        ValueError: if it is no folder, or holds no song.
    """
    root = Path(folder)
    if root.name in ("", ".."):  # as where the song is the current folder
        root = root.resolve()
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder; give one that holds a folder for each song")
    found = []
    for path in [root, *_below(root)]:
        is_stem = source_of(path.name) is not None and not (path.is_dir() and _holds_songs(path))
        if path.name.endswith(".stem.mp4") or (path.is_dir() and not is_stem):
            song = find_song(path)
            if song is not None:
                above = path.relative_to(root).parent.parts
                found.append((path, replace(song, name=" - ".join([*above, song.name]))))
    if not found:
        raise ValueError(f"{folder} holds no song folder with files such as vocals.wav")
    return found


def read_audio(path: Path | str) -> np.ndarray:
    """A sample of a bank at 44.1 kHz, `[C, L]` float32 with its own channels.

    Raises:
        ValueError: if it cannot be read.
    """
    try:
        sample, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise ValueError(f"{path} cannot be read as audio: {error}") from None
    if rate != SAMPLE_RATE:
        sample = soxr.resample(sample, rate, SAMPLE_RATE)
    return np.ascontiguousarray(sample.T)


def to_stereo(sample: np.ndarray) -> np.ndarray:
    """`[C, L] -> [2, L]`: mono on both sides; of more than two channels the first two."""
    return np.repeat(sample, 2, axis=0) if len(sample) == 1 else sample[:2]


def read_stream(path: Path, number: int) -> np.ndarray:
    """Audio stream `number` of a `.stem.mp4`: 0 is the mixture. `[2, L]`.

    Raises:
        ValueError: if it cannot be read, or has not five streams.
    """
    import av  # songs in other formats need no av

    try:
        with av.open(str(path)) as container:
            streams = len(container.streams.audio)
            if streams != 1 + len(MUSDB_STREAMS):
                raise ValueError(
                    f"{path} holds {streams} audio streams; a stem file of MUSDB18 has five"
                )
            resampler = av.AudioResampler(format="fltp", layout="stereo", rate=SAMPLE_RATE)
            blocks = [
                block.to_ndarray()
                for frame in container.decode(audio=number)
                for block in resampler.resample(frame)
            ]
    except av.FFmpegError as error:
        raise ValueError(f"{path} cannot be read as audio: {error}") from None
    return np.concatenate(blocks, axis=1) if blocks else np.zeros((2, 0), np.float32)


def read_song(path: Path, song: Song, warn: audio.Warn = _log.warning) -> dict[str, np.ndarray]:
    """Stems of a song, `[2, L]` each, all of the longest file's length.

    Args:
        path: where it was found.
        song: what was found there.
        warn: called with a sentence when a damaged file is read in part; it may raise an error.

    Raises:
        ValueError: if a file cannot be read.
    """
    if not song.files:
        stems = {s: read_stream(path, n) for n, s in enumerate(MUSDB_STREAMS, start=1)}
    else:
        parts = {s: [load(f, warn) for f in files] for s, files in song.files.items()}
        stems = {source: add(pieces) for source, pieces in parts.items()}
    frames = max(stem.shape[1] for stem in stems.values())
    return {s: fit(a, frames) for s, a in stems.items()}


def read_mixture(path: Path, song: Song, warn: audio.Warn = _log.warning) -> np.ndarray | None:
    """The song as it was mixed, `[2, L]`, where it lies beside its stems; as `read_song`."""
    if not song.files:
        return read_stream(path, 0)
    found = [file for file in _visible(path.iterdir(), path) if file.stem.lower() in MIXTURE]
    best = next(iter(by_loss(found)), None)
    return load(best, warn) if best else None


def refuse(text: str) -> NoReturn:
    """A `warn` for whoever wants a file whole or not at all."""
    raise ValueError(text)


def load(file: Path, warn: audio.Warn) -> np.ndarray:
    """A file `[2, L]`; what is wrong with it is told by its whole path, for names repeat."""
    if file.is_symlink() and not file.exists():
        raise ValueError(f"{file} is a link to nothing; fetch the file, as by git annex get")
    try:
        return audio.load(file, warn=lambda text: warn(f"{file}: {text}")).numpy()
    except audio.AudioError as error:
        raise ValueError(f"{file}: {error}") from error


def half_the_rate(files: list[Path]) -> float | None:
    """Frequency in Hz above which files that add up to a stem hold nothing, or None without any."""
    return max((audio.probe(file).sample_rate / 2 for file in files), default=None)


def add(pieces: list[np.ndarray]) -> np.ndarray:
    """Sum of `[2, L]` pieces that begin together; shorter ones end in silence."""
    total = np.zeros((2, max(piece.shape[1] for piece in pieces)), np.float32)
    for piece in pieces:
        total[:, : piece.shape[1]] += piece
    return total
