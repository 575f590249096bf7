"""The command line: separate files, list presets, open the page, train and evaluate.

Exit codes: 0 all went well, 1 some files failed, 2 the command cannot be carried out as given,
130 stopped with Ctrl-C, SIGTERM or SIGHUP.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from moises_light import __version__, audio, weights
from moises_light.config import DEFAULT_PRESET, Config, configs
from moises_light.model import PRECISIONS, count_parameters
from moises_light.separation import MIXES, Separator
from moises_light.terminal import (
    end_as_ctrl_c,
    exit_code,
    missing,
    one_line,
    printable,
    say,
    tell,
)

FORWARDED = {
    "train": "train weights of your own",
    "evaluate": "score weights on songs whose stems are known",
}
"""Commands of `moises_light.training.cli`: `add_<name>_arguments(parser)` and `<name>(args)`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)

    def run() -> int | None:
        args = make_parser(arguments[:1]).parse_args(arguments)
        return args.run(args)

    return exit_code(run, "moises-light")


def make_parser(command: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser of all commands.

    Args:
        command: the first word of the command line, if there is one. The arguments of training
            are only known when they are asked for, since they come from a package of their own.

    Raises:
        ValueError: if that command needs packages that are not installed.
    """
    parser = argparse.ArgumentParser(
        prog="moises-light",
        description="Separate music into vocals, drums, bass and other.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    help_ = "separate songs into stems"
    _add_separate_arguments(commands.add_parser("separate", help=help_, description=help_))
    help_ = "list the presets: size, range, weights, quality"
    _add_presets_arguments(commands.add_parser("presets", help=help_, description=help_))
    help_ = "serve the page on this machine"
    _add_app_arguments(commands.add_parser("app", help=help_, description=help_))
    for name, help_ in FORWARDED.items():
        forwarded = commands.add_parser(name, help=help_, description=help_)
        if name in command:
            training = _import("moises_light.training.cli", extra="train")
            getattr(training, f"add_{name}_arguments")(forwarded)
            forwarded.set_defaults(run=getattr(training, name))
    return parser


# --------------------------------------------------------------------------- separate


@dataclass(frozen=True)
class Job:
    """A song and the folder that its stems go to."""

    song: Path
    folder: Path


@end_as_ctrl_c()
def separate(args: argparse.Namespace) -> int:
    """Separate every file; one that fails does not keep the others."""
    if isinstance(args.rate, int):  # `same` is known song by song
        audio.check_format_rate(args.format, args.rate)
    model = weights.load_pretrained(args.preset, args.checkpoints).set_precision(args.precision)
    separator = Separator(
        model,
        segment=args.segment,
        overlap=args.overlap,
        shifts=args.shifts,
        batch_size=args.batch_size,
        residual="other" if args.residual else None,
        device=choose_device(args.device),
    )
    stems = choose_stems(args.stems, separator.sources)
    check_output(args.output)
    jobs = plan(args.files, args.output)
    songs = {key: job.song for job in jobs if (key := file_key(job.song))}
    failed = skipped = 0
    music = work = 0.0
    for job in jobs:
        try:
            paths = stem_paths(job.folder, stems, args.format)
            if job.folder.exists() and not job.folder.is_dir():
                raise ValueError(
                    f"{job.folder}, where its stems would go, is a file; choose another --output"
                )
            lost = next((songs[key] for p in paths if (key := file_key(p)) in songs), None)
            if lost is not None:
                whose = "its place" if lost == job.song else f"the place of {lost}"
                raise ValueError(f"a stem would take {whose}; choose another --output")
            there = existing(job.folder, stems, args.format)
            if there and not args.force:
                skipped += 1
                say(
                    f"{job.song}: skipped, {there} is there already, from this song or one "
                    f"of the same name; --force replaces it"
                )
                continue
            started = time.monotonic()
            seconds = separate_file(
                separator, model.audio_channels, job, stems, args.format, args.rate
            )
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            failed += 1
            text = one_line(error)
            named = text.startswith(job.song.name) or str(job.song) in text
            say(text if named and isinstance(error, audio.AudioError) else f"{job.song}: {text}")
            continue
        took = time.monotonic() - started
        music, work = music + seconds, work + took
        tell(f"{job.song} -> {job.folder} ({describe_speed(seconds, took)})")
    if len(args.files) > 1:
        counted = {"failed": failed, "skipped": skipped}
        done = [describe_speed(music, work)] if music else []
        say("all: " + "; ".join(done + [f"{n} {what}" for what, n in counted.items() if n]))
    return 1 if failed else 0


def separate_file(
    separator: Separator,
    channels: int,
    job: Job,
    stems: Sequence[str],
    format: str,
    written_rate: int | Literal["same"] | None = None,
) -> float:
    """Write the stems of one song; all of them appear, or none.

    Args:
        separator: with the network.
        channels: of the audio that the network takes.
        job: the song and its folder.
        stems: names of the sources, and of `MIXES`, that are written.
        format: one of `audio.FORMATS`.
        written_rate: of the stems, in Hz, or `same` for the song's; by default the network's.

    Returns:
        Seconds of music.

    Raises:
        ValueError: if the song cannot be read or the stems cannot be written.
    """
    info = audio.probe(job.song)
    rate = separator.sample_rate
    sources = separator.sources
    written_rate = info.sample_rate if written_rate == "same" else written_rate or rate
    audio.check_format_rate(format, written_rate)
    decoded: Counter[int] = Counter()  # frames by their rate
    song = Echo(audio.stream(job.song, rate, channels, warn=say, on_decoded=decoded.update))
    bar = tqdm(
        total=max(1, round(info.seconds)),
        desc=printable(job.folder.name)[:30],
        bar_format="{desc} {percentage:3.0f} %|{bar}| {n:.0f} of {total:.0f} s, {remaining} left",
        disable=not sys.stderr.isatty(),
        leave=False,
    )

    def blocks() -> Iterator[Tensor]:
        for block in separator.blocks(song):
            mixture = song.take(block.shape[-1])
            rows = [
                block[sources.index(stem)]
                if stem in sources
                else mixture - block[sources.index(MIXES[stem])]
                for stem in stems
            ]
            yield torch.stack(rows)
            bar.update(block.shape[-1] / rate)

    with bar, audio.StemWriter(job.folder, stems, format, written_rate, info.tags) as writer:
        written = audio.resampled(blocks(), rate, written_rate)
        for block in audio.ended_at(written, lambda n: decoded.get(written_rate, n)):
            writer.write(block)
        # MP3 takes a while, and a bar that stands still at its end looks stuck
        bar.bar_format = "{desc} writing {percentage:3.0f} %|{bar}|"
        bar.reset(total=1)
        writer.finish(lambda share: bar.update(share - bar.n))
    if writer.gain < 1:
        say(
            f"{job.song}: the stems would clip, so all of them were turned down to "
            f"{writer.gain:.3f}; --format wav32f keeps their level"
        )
    return writer.frames / written_rate


class Echo:
    """Blocks `[C, n]` as they go by, and once more in pieces of any length."""

    def __init__(self, blocks: Iterable[Tensor]):
        self._blocks = blocks
        self._gone: deque[Tensor] = deque()

    def __iter__(self) -> Iterator[Tensor]:
        for block in self._blocks:
            self._gone.append(block)
            yield block

    def take(self, length: int) -> Tensor:
        """The next samples `[C, length]`, of those that have gone by."""
        pieces = []
        while length:
            block = self._gone.popleft()
            pieces.append(block[:, :length])
            if block.shape[-1] > length:
                self._gone.appendleft(block[:, length:])
            length -= pieces[-1].shape[-1]
        return torch.cat(pieces, dim=-1)


def check_output(folder: Path) -> None:
    """Say before the work where no folder can be.

    Raises:
        ValueError: if a file is in the way.
    """
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise ValueError(f"--output {folder}: {path} is a file; name a folder")


def plan(files: Sequence[Path], output: Path) -> list[Job]:
    """Give every song a folder of its own, named after the file without its extension.

    Songs that share a name get numbers, whatever the case of their letters, since some file
    systems do not tell it apart. A file that is named twice, whichever way, is separated once.
    Given in two commands, `song.wav` and `song.flac` share a folder.

    >>> [job.folder.name for job in plan([Path("a/x.mp3"), Path("b/X.wav")], Path("out"))]
    ['x', 'X (2)']
    """
    songs: dict[str, Path] = {}
    for path in files:
        songs.setdefault(os.path.realpath(path), path)
    jobs, taken = [], set()
    for song in songs.values():
        # a name such as "...mp3" has the stem "..", which is no folder of its own
        name = stem = song.stem.strip(". ") or "track"
        number = 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem} ({number})"
        taken.add(name.casefold())
        jobs.append(Job(song, output / name))
    return jobs


def stem_paths(folder: Path, stems: Sequence[str], format: str) -> list[Path]:
    """Where these stems are written."""
    return [folder / f"{stem}.{audio.FORMATS[format]}" for stem in stems]


def file_key(path: Path) -> tuple[int, int] | None:
    """What a file has in common with all of its names and links; `None` where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def existing(folder: Path, stems: Sequence[str], format: str) -> Path | None:
    """The first of these stems that is there already."""
    return next((path for path in stem_paths(folder, stems, format) if path.exists()), None)


def choose_device(name: str) -> str:
    """`auto` is the fastest device that is really there."""
    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def choose_stems(text: str | None, sources: Sequence[str]) -> list[str]:
    """The stems of a list such as `vocals,karaoke`, in the network's order; all without one.

    Raises:
        ValueError: if the network has no such source, nor what a mix of `MIXES` leaves out.
    """
    if text is None:
        return list(sources)
    wanted = [name.strip() for name in text.split(",") if name.strip()]
    mixes = [mix for mix, source in MIXES.items() if source in sources and mix not in sources]
    known = [*sources, *mixes]
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        raise ValueError(
            f"--stems {text!r}: this network gives {', '.join(known)}; "
            f"name some of them with commas between"
        )
    return [name for name in known if name in wanted]


def describe_speed(seconds: float, took: float) -> str:
    """The real-time factor in words.

    >>> describe_speed(180, 60)
    '180.0 s of music in 60.0 s, 3.00 times real time'
    """
    factor = seconds / max(took, 1e-9)
    return f"{seconds:.1f} s of music in {took:.1f} s, {factor:.2f} times real time"


def _rate(text: str) -> int | Literal["same"]:
    if text == "same":
        return "same"
    low, high = audio.SAMPLE_RATES
    if not text.isdecimal() or not low <= int(text) <= high:
        raise argparse.ArgumentTypeError(f"{text!r}: give {low} to {high} Hz, or same")
    return int(text)


def _add_separate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=separate)
    add = parser.add_argument
    add("files", nargs="+", type=Path, metavar="FILE", help=f"songs: {audio.READABLE}")
    add(
        "-o",
        "--output",
        type=Path,
        default=Path("separated"),
        metavar="DIR",
        help="stems go to DIR/<song>/<stem>.<extension> (default: %(default)s)",
    )
    add(
        "--preset",
        default=DEFAULT_PRESET,
        metavar="NAME",
        help="a preset, see `presets`, or a file of weights (default: %(default)s)",
    )
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to compute")
    add(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="of the network; auto is bfloat16 on a CPU that has instructions for it, which takes "
        "less time and changes each stem by less than a thousandth of its energy "
        "(default: %(default)s)",
    )
    add(
        "--format",
        choices=tuple(audio.FORMATS),
        default="wav16",
        help="of the stems (default: %(default)s)",
    )
    add(
        "--rate",
        type=_rate,
        metavar="HZ",
        help="of the stems, or `same` for the song's own (default: 44100, at which it separates)",
    )
    add(
        "--stems",
        metavar="A,B",
        help="only these, for example vocals,drums; karaoke is the song without its vocals, "
        "drumless without its drums",
    )
    add(
        "--residual",
        action="store_true",
        help="what no stem claimed goes to other, so that the stems add up to the song",
    )
    add("--force", action="store_true", help="replace stems that are there already")
    add(
        "--segment",
        type=float,
        default=6.0,
        metavar="SECONDS",
        help="that the network hears at once (default: %(default)s)",
    )
    add(
        "--overlap",
        type=float,
        default=0.25,
        metavar="SHARE",
        help="of a segment that the next one shares, 0 to 0.9 (default: %(default)s)",
    )
    add(
        "--shifts",
        type=int,
        default=0,
        metavar="N",
        help="mean of N passes over the song: slower, a little better (default: %(default)s)",
    )
    add(
        "--batch-size",
        type=int,
        default=1,
        metavar="N",
        help="segments at a time; more can help a GPU (default: %(default)s)",
    )
    _add_checkpoints_argument(parser)


def _add_checkpoints_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoints",
        type=Path,
        metavar="DIR",
        help="where the weights are (default: MOISES_LIGHT_CHECKPOINTS, else checkpoints)",
    )


# --------------------------------------------------------------------------- presets


SCORED = ("backed", "validation")
"""Sets of the cards' scores that the table of presets shows: see the cards."""


def presets(args: argparse.Namespace) -> int:
    """Print the table of presets."""
    for line in align(preset_rows(weights.available(args.checkpoints))).splitlines():
        tell(line)
    return 0


def preset_rows(available: Mapping[str, weights.Info]) -> list[list[str]]:
    """The table of presets: its head, then a row each.

    Sizes and ranges are computed, SDR per source comes from the weights' cards.
    """
    heads = [f"SDR in dB, {name}" for name in SCORED]
    rows = [["preset", "parameters", "range in kHz", "weights", *heads]]
    for preset, config in configs.items():
        info = available.get(preset)
        where = "no" if info is None else "yes" if info.path else "on the Hub"
        scores = [_scores(info.card, name) if info else "-" for name in SCORED]
        size = f"{count_parameters(config):,}"
        rows.append([preset, size, format_range(config), where, *scores])
    return rows


def align(rows: Sequence[Sequence[str]]) -> str:
    """Rows as text in columns.

    >>> print(align([["a", "size"], ["long", "2"]]))
    a     size
    long  2
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
    return "\n".join(lines)


def format_range(config: Config) -> str:
    """What of the spectrum the network works on, in kHz.

    >>> format_range(configs["paper_small"])
    '0-14.7'
    """
    return f"0-{config.cutoff / 1000:.4g}"


def _scores(card: Mapping[str, Any], name: str) -> str:
    """SDR by source on a set, in words; a card is free to hold something else there."""
    sdr = card.get("sdr")
    scores = sdr.get(name) if isinstance(sdr, dict) else None
    if not isinstance(scores, dict):
        return "-"
    told = (f"{source} {x:.2f}" for source, x in scores.items() if isinstance(x, int | float))
    return ", ".join(told) or "-"


def _add_presets_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=presets)
    _add_checkpoints_argument(parser)


# --------------------------------------------------------------------------- the rest of the house


def app(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C."""
    page = _import("moises_light.ui.demo", extra="app")
    studio = page.Studio(page.Engine(args.checkpoints))
    demo = page.build_demo(studio=studio)
    studio.start_chores()
    demo.launch(server_name=args.host, server_port=args.port, **page.launch_options())
    return 0


def _add_app_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=app)
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    add("--port", type=port, default=7860, help="port to listen at (default: %(default)s)")
    _add_checkpoints_argument(parser)


def port(text: str) -> int:
    """A port as it is given on the command line; 0 takes any that is free."""
    if text.isdecimal() and int(text) < 2**16:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no port; give a whole number from 0 to 65535")


def _import(name: str, extra: str) -> ModuleType:
    """Import a part of the house that not every installation has the packages for."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(missing(error, extra)) from error
