"""Build a corpus: `python -m moises_light.training.build CORPUS [--songs FOLDER] [--banks FOLDER]`.

Tracks are written one after another and a stopped build goes on where it stood; each track depends
on the seed and its own name alone, so the same command gives the same bits.
"""

from __future__ import annotations

from moises_light.terminal import run_main

if __name__ == "__main__":  # above the imports: what is not installed is one line
    raise SystemExit(run_main("moises_light.training.build"))

import argparse
import copy
import logging
import re
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
from scipy import signal

from moises_light import audio
from moises_light.config import SOURCES
from moises_light.terminal import at_least, end_as_ctrl_c, tell
from moises_light.training import banks, render, singing, world
from moises_light.training.augment import draw_shape, piece_frame, reshape
from moises_light.training.bands import compose
from moises_light.training.corpus import (
    BACKED_SPLITS,
    BACKING,
    BLOCK,
    SAMPLE_RATE,
    Corpus,
    LicenceRow,
    Track,
    active_level,
    block_levels,
    clear_parts,
    fit,
    name_seed,
    write_licences,
    write_track,
)
from moises_light.training.songs import Song, find_songs, half_the_rate, read_song, refuse

_log = logging.getLogger(__name__)

Say = Callable[[Track], object]
"""Told of every track that was written."""


def known_names(corpus: Path, split: str) -> set[str]:
    """Names of the tracks that a split holds already."""
    if not (corpus / split / "index.jsonl").is_file():
        return set()
    return {track.name for track in Corpus(corpus, split).tracks}


def add_songs(corpus: Path, folder: Path, say: Say) -> None:
    """Add every song below a folder to `train`; one that is there already is left out.

    So is, with a warning, a song of which a file is damaged or cannot be read: half a stem beside
    whole ones would teach silence. And a second song of one name, such as `A - B` beside `A/B`.

    Raises:
        ValueError: where no song is found, none can be read, or `folder` holds a test set.
    """
    found = find_songs(folder)
    refuse_test_set(folder, [path for path, _ in found])
    done = known_names(corpus, "train")
    places: dict[str, Path] = {}
    unread = 0
    for path, song in found:
        name = track_name(f"song-{song.name}")
        if name in places:
            _log.warning("%s has the name of %s; left out, rename it", path, places[name])
            continue
        if name in done:
            _log.info("%s: the corpus has a song of that name; left out", path)
            places[name] = path
            continue
        try:
            stems = read_song(path, song, refuse)
            limits = {source: ends(stem, song, source) for source, stem in stems.items()}
        except ValueError as error:
            _log.warning("%s; the song is left out", error)
            unread += 1
            continue
        places[name] = path
        material = f"songs/{song.name}"
        # a guitar on its own plays the tune
        track = write_track(
            *(corpus, "train", name, "song", stems),
            present=song.present,
            material=[material],
            limits={source: end for source, end in limits.items() if end},
            tags=["lead"] if set(song.present) == {"other"} else [],
        )
        say(track)
    if unread == len(found):
        raise ValueError(f"no song below {folder} can be read whole")


def refuse_test_set(folder: Path, paths: Sequence[Path]) -> None:
    """Keep a test set unheard, however deep below a folder it lies.

    Whoever gives the folder of a test set itself means it. A song alone may be called Test.

    Args:
        folder: that was given.
        paths: of the songs that were found below.

    Raises:
        ValueError: that names the first song of a test set.
    """
    base = folder if all(path.is_relative_to(folder) for path in paths) else folder.resolve()
    below = [path.relative_to(base).parts for path in paths]
    names = [[part.casefold() for part in parts] for parts in below]
    train = next(
        (
            base.joinpath(*parts[: some.index("train") + 1])
            for parts, some in zip(below, names, strict=True)
            if "train" in some
        ),
        None,
    )
    for path, some in zip(paths, names, strict=True):
        if "test" in (some if train else some[:-1]):
            raise ValueError(
                f"{path} is of a test set, which must stay unheard; give the folder to train on "
                f"itself{f', such as {train}' if train else ''}"
            )


LONGEST_NAME = 240
"""Bytes of a track's name: a file's may have 255, and a suffix and a process are added to it."""


def track_name(name: str) -> str:
    """The name, or as much of it as a file's may have, with a sum of the whole."""
    if len(name.encode()) <= LONGEST_NAME:
        return name
    # shorter than need be, since the pieces of a pack have a number behind it
    return f"{name.encode()[:200].decode(errors='ignore')}-{zlib.crc32(name.encode()):08x}"


def ends(stem: np.ndarray, song: Song, source: str) -> float | None:
    """Frequency in Hz above which a stem of a song holds nothing, where it is known, or None."""
    rate = half_the_rate(song.files.get(source, []))
    return rate if rate and rate < LOWEST_WALL else wall(stem)


def song_licences(folder: Path) -> list[LicenceRow]:
    """Licence rows of the songs in a bank's table.

    Raises:
        ValueError: if one of them lacks columns.
    """
    table = folder / "LICENSES.tsv"
    rows = set()
    if table.is_file():
        lines = table.read_text(encoding="utf-8-sig").splitlines()
        for number, line in enumerate(lines, start=1):
            cells = line.split("\t")
            if cells[0].startswith("songs/"):
                if len(cells) < 5:
                    raise ValueError(f"{table}, line {number}: {banks.COLUMNS_TOLD}")
                rows.add((cells[0].rsplit("/", 1)[0], cells[2], cells[3], cells[4]))
    return sorted(rows)


def add_backings(corpus: Path, folder: Path, say: Say) -> None:
    """Add music without a singer to `train`: every file that `LICENSES.tsv` of a folder lists.

    The table is that of a bank; its rows have the class `backing`. A track that the corpus has
    already is left out.

    Raises:
        ValueError: where the table is missing or lists no backing that is there, or a file cannot
            be read.
    """
    done = known_names(corpus, "train")
    bank = banks.Bank(folder, held_out=False)
    samples = [sample for sample in bank.samples if sample.source == BACKING]
    if not samples:
        raise ValueError(
            f"{folder} holds no file that its LICENSES.tsv lists with the class {BACKING}"
        )
    write_licences(corpus, {(s.path, s.origin, s.author, s.licence) for s in samples})
    for sample in samples:
        name = _backing_name(sample)
        if name not in done:
            music = audio.load(folder / sample.path).numpy()
            track = write_track(
                *(corpus, "train", name, "backing", {BACKING: music}),
                bandwidth=bandwidth(music),
                material=[sample.path],
            )
            say(track)


def add_backed(
    corpus: Path, folder: Path, bank: banks.Bank, seed: int, say: Say, split: str = "backed"
) -> None:
    """Add a singer before each held-out backing of a folder to the split `backed`, or `in_key`.

    Both have the same singers, backings, rooms and levels. In `in_key` each phrase keeps to the key
    of what plays behind it, see `banks.vocal_collage`; in `backed` it is in whatever key it is.

    Args:
        corpus: to add to.
        folder: of the backings, see `add_backings`.
        bank: whose singers are drawn, held-out ones.
        split: to add to.
    """
    done = known_names(corpus, split)
    backings = banks.Bank(folder, held_out=True).samples
    write_licences(corpus, {(s.path, s.origin, s.author, s.licence) for s in backings})
    length = BACKED_SECONDS * SAMPLE_RATE
    for sample in backings:
        name = _backing_name(sample)
        if name in done:
            continue
        rng = name_seed(seed, name)
        music = audio.load(folder / sample.path).numpy()
        start = int(rng.integers(max(1, music.shape[1] - length)))
        music = music[:, start : start + length]
        same, seconds = copy.deepcopy(rng), music.shape[1] / SAMPLE_RATE
        vocals, material, _ = banks.vocal_collage(bank, seconds, rng)
        if split == "in_key":  # whatever is drawn from here on stays the same, too
            vocals, material, _ = banks.vocal_collage(bank, seconds, same, music)
        vocals = fit(vocals, music.shape[1])
        n, margin = piece_frame(music.shape[1], 1.0)
        padded = np.pad(vocals, ((0, 0), (margin, n - margin - vocals.shape[1])))
        vocals = reshape(padded, draw_shape(rng, room=0.5), music.shape[1])
        below = active_level(block_levels(vocals)) - active_level(block_levels(music))
        gain = 10 ** ((rng.normal(-4, 2) - below) / 20)
        stems = {"vocals": vocals * np.float32(gain), BACKING: music}
        say(write_track(corpus, split, name, "backing", stems, material={*material, sample.path}))


BACKED_SECONDS = 30
"""Longest track of the splits `backed` and `in_key`."""


def _backing_name(sample: banks.Sample) -> str:
    return track_name("backing-" + re.sub(r"[^\w.-]+", "-", sample.path.rsplit(".", 1)[0]))


def bandwidth(music: np.ndarray) -> float | None:
    """Frequency in Hz above which a recording holds nothing, or None where it reaches 15 kHz.

    Old encoders and low rates cut the highs off. Counted is what lies within 60 dB of the loudest
    tenth of an octave.

    Args:
        music: `[C, L]` at 44.1 kHz.
    """
    frequencies, density = signal.welch(music, SAMPLE_RATE, nperseg=8192)
    power = density.mean(axis=0) * frequencies
    top = float(frequencies[power > power.max() * 1e-6].max(initial=0.0))
    return top if top < 15000 else None


LOWEST_WALL = 8000
"""Hz from which `wall` looks: below it what a stem has by nature may fall as steeply."""


def wall(stem: np.ndarray) -> float | None:
    """Frequency in Hz from 8 to 15 kHz at which a stem's spectrum breaks off, or None.

    That is where an encoder or a low rate has cut it off, while the other stems of its song may go
    on. What a stem has by nature falls more slowly: counted is a fall of 12 dB within 750 Hz, after
    which nothing rises again, in the loudest quarter of the stem. (The voices of our songs that
    are cut off fall by 16 to 25 dB, all their other stems by 9 at most.) What lies 80 dB below the
    stem's strongest frequencies before it falls is a floor of noise, and no wall ends there. (A
    bass of ours has one at -94 dB, which ends at 15 kHz.)

    Args:
        stem: `[C, L]` at 44.1 kHz.
    """
    blocks = stem[:, : stem.shape[1] // BLOCK * BLOCK].reshape(len(stem), -1, BLOCK)
    power = np.square(blocks, dtype=np.float32).mean((0, 2))
    loud = np.sort(np.argsort(power)[-max(1, len(power) // 4) :])
    if not len(power) or not power.max():
        return None
    frequencies, density = signal.welch(
        blocks[:, loud].reshape(len(stem), -1), SAMPLE_RATE, nperseg=2048
    )
    inside = frequencies < 20500
    frequencies, width = frequencies[inside], 21  # bins, 450 Hz
    levels = 10 * np.log10(density.mean(0)[inside] + 1e-20)
    levels = np.convolve(np.pad(levels, width // 2, mode="edge"), np.ones(width) / width, "valid")
    loudest_above = np.maximum.accumulate(levels[::-1])[::-1]
    places = np.flatnonzero((frequencies >= LOWEST_WALL) & (frequencies <= 15000))
    apart = round(375 / frequencies[1])
    before = levels[places - apart]
    falls = np.where(before > levels.max() - 80, before - loudest_above[places + apart], 0.0)
    return float(frequencies[places[falls.argmax()]]) if falls.max() >= 12 else None


def add_collages(
    corpus: Path,
    bank: banks.Bank,
    seed: int,
    counts: dict[str, int],
    say: Say,
) -> None:
    """Add tracks of isolated vocals, bass lines and melody instruments to `train`."""
    done = known_names(corpus, "train")
    wanted = [source for source in counts if counts[source]]
    made = {source: banks.instruments(bank, source) for source in wanted if source != "vocals"}
    there = {**made, "vocals": banks.vocal_packs(bank)}
    for source in [source for source in wanted if not there[source]]:
        _log.warning("the bank has no %s to string together; left out", source)
        counts = {**counts, source: 0}
    for number in range(max(counts.values())):
        for source, count in counts.items():
            name = f"bank-{source}-{number:03d}"
            if number >= count or name in done:
                continue
            rng = name_seed(seed, name)
            seconds = float(rng.uniform(45, 75))
            tags: list[str] = []
            bandwidth = None
            if source == "vocals":
                audio, material, bandwidth = banks.vocal_collage(bank, seconds, rng)
            else:
                prefixes = list(made[source])
                prefix = prefixes[int(rng.integers(len(prefixes)))]
                instrument = made[source][prefix]
                lead = prefix.startswith(banks.LEADS)
                chords = 0.0 if source == "bass" or "sax" in prefix else float(rng.choice([0, 0.5]))
                audio = banks.line_collage(instrument, seconds, rng, chords)
                material = instrument.material
                tags = ["lead"] if lead and not chords else []
            track = write_track(
                *(corpus, "train", name, "bank", {source: audio}),
                bandwidth=bandwidth,
                material=material,
                tags=tags,
            )
            say(track)


SINGERS: tuple[tuple[str, float], ...] = (
    ("none", 0.18),
    ("phrases", 0.38),
    ("sung_speech", 0.22),
    ("notes", 0.08),
    ("takes", 0.05),
    ("speech", 0.09),
)
"""Who sings a band's vocals, and how often."""


def draw_singer(bank: banks.Bank, rng: np.random.Generator) -> singing.Singer | None:
    """Somebody to sing, or None for an instrumental."""
    names, weights = zip(*SINGERS, strict=True)
    name = names[int(rng.choice(len(names), p=np.array(weights) / sum(weights)))]
    if name == "none":
        return None
    return getattr(singing, name)(bank, rng)


def make_band(
    corpus: Path, split: str, name: str, studio: render.Studio, seed: int, seconds: float | None
) -> Track:
    """Compose, play and write one band."""
    rng = name_seed(seed, name)
    singer = draw_singer(studio.bank, rng) or singing.Singer(None)
    length = seconds or float(rng.uniform(40, 80))
    score = compose(
        *(rng, length),
        bpm=singer.bpm,
        root=singer.root,
        scale=singer.scale,
        vocals=singer.sing is not None,
        full=split == "heldout",
    )
    stems, material = render.render(score, studio, rng, singer.sing)
    lead = any(part.role == "lead" for part in score.parts)
    return write_track(
        *(corpus, split, name, "band", stems),
        present=SOURCES,
        bandwidth=singer.bandwidth,
        material=material,
        tags=["lead", score.style] if lead else [score.style],
    )


def add_bands(
    corpus: Path,
    split: str,
    studio: render.Studio,
    seed: int,
    count: int,
    say: Say,
    seconds: float | None = None,
    jobs: int = 1,
) -> None:
    """Add rendered bands in `jobs` processes, of about `seconds` or each of its own length."""
    done = known_names(corpus, split)
    # a name seeds its band, so those of the two splits differ
    kind = "heldout" if split == "heldout" else "band"
    names = [name for k in range(count) if (name := f"{kind}-{k:04d}") not in done]
    fonts = [Path(font).stem for font in studio.soundfonts]
    write_licences(corpus, render.licence_rows(fonts))
    if jobs == 1:
        for name in names:
            say(make_band(corpus, split, name, studio, seed, seconds))
        return
    with ProcessPoolExecutor(jobs, initializer=_keep, initargs=(studio,)) as pool:
        work = [pool.submit(_band_of_kept, corpus, split, name, seed, seconds) for name in names]
        try:
            for future in as_completed(work):
                say(future.result())
        finally:  # where one fails, those that have not begun need not
            pool.shutdown(cancel_futures=True)


_kept: list[render.Studio] = []
"""The studio of a worker process."""


def _keep(studio: render.Studio) -> None:
    _kept[:] = [studio]


def _band_of_kept(corpus: Path, split: str, name: str, seed: int, seconds: float | None) -> Track:
    return make_band(corpus, split, name, _kept[0], seed, seconds)


@end_as_ctrl_c()  # a build that is told to end leaves no half a track
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m moises_light.training.build")
    parser.add_argument("corpus", type=Path, help="folder to write")
    parser.add_argument("--songs", type=Path, action="append", default=[], help="song folders")
    parser.add_argument("--banks", type=Path, help="folder with LICENSES.tsv and samples")
    parser.add_argument(
        "--backings",
        type=Path,
        action="append",
        default=[],
        help="folder with LICENSES.tsv and music without a singer",
    )
    parser.add_argument("--collages", type=at_least(0), default=0, help="tracks of isolated vocals")
    parser.add_argument("--bands", type=at_least(0), default=0, help="rendered bands")
    parser.add_argument(
        "--heldout", type=at_least(0), default=0, help="tracks of held-out material"
    )
    parser.add_argument("--jobs", type=at_least(1), default=1, help="processes that render bands")
    parser.add_argument("--seed", type=at_least(0), default=0)
    options = parser.parse_args(arguments)
    if not options.banks and (options.bands or options.heldout or options.collages):
        raise ValueError("bands and collages are played on samples; name their folder by --banks")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    began = time.monotonic()
    clear_parts(options.corpus)

    def say(track: Track) -> None:
        rows = " ".join(f"{s} {track.level[s]:.0f} dB" for s in track.rows)
        tell(f"{time.monotonic() - began:6.0f} s  {track.name:<28}{track.seconds:6.1f} s  {rows}")

    for folder in options.songs:
        add_songs(options.corpus, folder, say)
        write_licences(options.corpus, song_licences(folder.parent))
    for folder in options.backings:
        add_backings(options.corpus, folder, say)
    if options.banks:
        bank = banks.Bank(options.banks, held_out=False)
        write_licences(options.corpus, {sample.licence_row for sample in bank.samples})
        n = options.collages
        counts = {"vocals": n, "bass": n // 4, "other": n // 3}
        add_collages(options.corpus, bank, options.seed, counts, say)
        if options.heldout:
            other = banks.Bank(options.banks, held_out=True)
            write_licences(options.corpus, {sample.licence_row for sample in other.samples})
            studio = render.Studio(other, held_out=True)
            add_bands(
                *(options.corpus, "heldout", studio, options.seed, options.heldout, say),
                seconds=20.0,
            )
            for folder in options.backings:
                for split in BACKED_SPLITS:
                    add_backed(options.corpus, folder, other, options.seed, say, split)
        if options.bands and not world.available():
            tell("pyworld is missing: nobody sings but recorded voices; pip install pyworld")
        studio = render.Studio(bank)
        add_bands(
            *(options.corpus, "train", studio, options.seed, options.bands, say),
            jobs=options.jobs,
        )
    return 0
