"""What the page says, in a musician's words. Pure functions, no Gradio."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from moises_light.config import SOURCES
from moises_light.ui.engine import Engine, Preset
from moises_light.ui.jobs import Song, Take


def clock(seconds: float) -> str:
    """A place in a song.

    >>> clock(192.4)
    '3:12'
    """
    whole = max(0, math.floor(seconds + 1e-6))
    return f"{whole // 60}:{whole % 60:02d}"


def span(seconds: float) -> str:
    """How long something takes, no finer than anybody can tell beforehand.

    >>> span(0.4), span(42.2), span(100)
    ('1 s', '42 s', '1 min 40 s')
    """
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 600:
        whole = 5 * round(whole / 5)
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    return f"{round(whole / 60)} min"


def decibel(amplitude: float) -> str:
    """An amplitude relative to full scale.

    >>> decibel(0.5)
    '−6.0 dB'
    """
    if amplitude < 1e-6:
        return "silence"
    return f"{20 * math.log10(amplitude):.1f} dB".replace("-", "−")


def facts(song: Song) -> str:
    """Length and level of a song, one line."""
    return f"{clock(song.seconds)} · peak {decibel(song.peak)} · level {decibel(song.rms)}"


def kilohertz(hertz: float) -> str:
    """
    >>> kilohertz(14700)
    '14.7 kHz'
    """
    return f"{hertz / 1000:.1f} kHz"


def choice(preset: Preset) -> str:
    """A preset's line in the menu."""
    text = f"{preset.label} · to {kilohertz(preset.cutoff)}"
    return text if preset.available else f"{text} · no weights yet"


def cost(
    engine: Engine,
    presets: Mapping[str, Preset],
    name: str,
    device: str,
    seconds: float | None,
    start: float | None = None,
) -> str:
    """What a preset costs on a device here, from what was measured on this machine.

    Args:
        engine: knows the speeds.
        presets: all that there are, as the engine tells.
        name: which of them.
        device: name of the device.
        seconds: length of what would be separated, or `None` if there is no song yet.
        start: where that begins, if it is only a part.
    """
    preset = presets[name]
    size = f"{preset.parameters / 1e6:.1f} M parameters, hears up to {kilohertz(preset.cutoff)}."
    if not preset.available:
        return f"{preset.label} has no trained weights here yet, so it cannot run. {size}"
    size = f"{merit(presets, preset)} {size}".lstrip()
    speed = engine.speed(preset.name, device)
    if speed is None:
        return f"{size} Its speed here is not measured yet; the first song will tell."
    if seconds is None:
        return f"{size} A minute of music takes about {span(60 * speed)} here."
    what = "This" if start is None else f"The part from {clock(start)} to {clock(start + seconds)}"
    return f"{size} {what} takes about {span(seconds * speed)} here."


# why there is nothing to separate, or less than the whole
MADE_B = "Already separated like this: choose another preset for B."
SAME = "This is what A is: choose another preset for B."
GOES_ON = "This goes on where it was stopped."


def made(parts: bool) -> str:
    """That what is asked for is there already; `parts` is whether less than all can be chosen."""
    other = "another preset, or another part of the song" if parts else "another preset"
    return f"Already separated like this: choose {other}."


SILENCE = 1e-4
"""Level, 80 dB below full scale, under which a song is called silent."""


def making_way(takes: Sequence[Take], start: int, frames: int) -> str:
    """Which stems a new A takes the place of, and which stay.

    Args:
        takes: what there is.
        start, frames: the part of the song that the new A covers.
    """
    there = {take.slot: take for take in takes}
    if "b" in there:
        stays = there["b"].covers(start, frames)
        return "B stays, A makes way." if stays else "The stems of A and B make way."
    return "The stems that are here make way." if there else ""


def merit(presets: Mapping[str, Preset], preset: Preset) -> str:
    """What speaks for a preset among those that have weights, and how clean its voices are.

    Voices are compared by the cards' set `backed`, where all of them have a score of it.
    """
    there = [p for p in presets.values() if p.available]
    if len(there) < 2:
        return ""
    told = []
    if preset.parameters == min(p.parameters for p in there):
        told.append("The lightest preset here.")
    voices = {p.name: p.sdr.get("backed", {}).get("vocals") for p in there}
    scores = {name: v for name, v in voices.items() if isinstance(v, int | float)}
    if len(scores) == len(there):
        own, best = _score(scores[preset.name]), _score(max(scores.values()))
        if own == best:  # as they are told
            told.append(f"The cleanest voices of the presets here: {own} dB (see About).")
        else:
            told.append(f"Voices at {own} dB, the cleanest here {best} (see About).")
    return " ".join(told)


def arrived(song: Song) -> str:
    """What to do with a song that has just come in."""
    if song.rms < SILENCE:
        return "There is hardly any sound in this song, so there is little to separate."
    return "Listen to the original, or press Separate."


def running(take: Take, rate: int) -> str:
    """How far a run is."""
    if not take.ready:
        return f"Listening to the first seconds with {take.preset.replace('_', ' ')} …"
    left = take.left or 0.0
    return (
        f"{clock(take.ready / rate)} of {clock(take.frames / rate)} separated · "
        f"{round(100 * take.done)} % · about {span(left)} left"
    )


def ended(take: Take, rate: int, before: bool = False) -> str:
    """How a run ended.

    Args:
        take: what there is of it.
        rate: samples per second.
        before: whether other stems are where it belongs.
    """
    if take.state == "stopped":
        if not take.ready and before:
            return "Stopped before there was anything new. The stems that were here stay."
        if not take.ready:
            return "Stopped before there was anything to hear."
        return f"Stopped. The first {clock(take.ready / rate)} are kept; you can use them."
    done = "Done" if take.slot == "a" else "B is done"
    return f"{done}: {clock(take.frames / rate)} of music in {span(take.work)}."


def waiting(place: int) -> str:
    """Where in the line a run is; 1 is next."""
    if place == 1:
        return "Next in line: one song is being worked on before yours."
    return f"Number {place} in line. You can listen to the original meanwhile."


def earlier_links(made: Sequence[Sequence[Any]]) -> str:
    """Markdown that lists a visitor's earlier links.

    Args:
        made: token, key, name of the song and time of the end, and more, for each link.

    >>> print(earlier_links([("t", "k", "A*B", 0.0)]).splitlines()[-1])
    - A&#42;B, until 1 January 1970, 00:00 UTC: [open](?r=t) or [delete](?r=t&delete=k)
    """
    if not made:
        return ""
    lines = [
        f"- {_literal(name)}, until {until(expires)}: [open](?r={token}) "
        f"or [delete](?r={token}&delete={key})"
        for token, key, name, expires, *_ in made
    ]
    return "\n".join(["Links that you made before:", "", *lines])


def _literal(text: str) -> str:
    """Text that Markdown and HTML leave alone."""
    return "".join(c if c.isalnum() or c == " " else f"&#{ord(c)};" for c in text)


def until(moment: float) -> str:
    """A day and hour that everybody reads the same way.

    >>> until(0)
    '1 January 1970, 00:00 UTC'
    """
    then = datetime.fromtimestamp(moment, tz=timezone.utc)
    return f"{then.day} {then:%B %Y, %H:%M} UTC"


def turned_down(gain: float) -> str:
    """What a gain below 1 did, in decibels."""
    if gain > 10 ** (-0.05 / 20):  # it would read as 0.0 dB; sums of stems round
        return ""
    return (
        f"Turned down by {-20 * math.log10(gain):.1f} dB as a whole, because it would have "
        f"clipped in this format. “WAV 32-bit float” keeps the level as it is."
    )


def table(presets: Mapping[str, Preset]) -> str:
    """All presets as Markdown: size, range, and whether they have weights."""
    lines = ["| preset | parameters | range | weights |", "|---|---|---|---|"]
    for preset in presets.values():
        lines.append(
            f"| {preset.label} | {preset.parameters:,} | 0–{kilohertz(preset.cutoff)} "
            f"| {'yes' if preset.available else 'none yet'} |"
        )
    return "\n".join(lines)


SETS = {
    "validation": "A real song",
    "backed": "Singers before real music that is not theirs",
    "in_key": "The same, each phrase moved into the key of the music",
    "rendered": "Songs that a program wrote",
}
"""What the sets that a card has scores of are made of, in the order in which they are shown."""

PARTS = (*SOURCES, "accompaniment")
"""Columns of the scores."""


def scores(presets: Mapping[str, Preset]) -> str:
    """SDR in dB as the cards of the weights have it, as Markdown: a table for each set."""
    there = [preset for preset in presets.values() if preset.available]
    names = dict.fromkeys([*SETS, *(name for preset in there for name in preset.sdr)])
    lines = []
    for name in names:
        rows = {preset.label: preset.sdr[name] for preset in there if preset.sdr.get(name)}
        parts = [part for part in PARTS if any(part in row for row in rows.values())]
        if parts:
            lines += [f"{SETS.get(name, name)}:", "", f"| preset | {' | '.join(parts)} |"]
            lines += ["|---" * (1 + len(parts)) + "|"]
            for label, row in rows.items():
                lines.append(f"| {label} | {' | '.join(_score(row.get(p)) for p in parts)} |")
            lines.append("")
    return "\n".join(lines) or "No weights here were scored yet."


def _score(value: object) -> str:
    return f"{value:.1f}".replace("-", "−") if isinstance(value, int | float) else "–"
