"""Pictures of what the network heard and gave: spectrograms and masks, small enough to send.

Axes: `S` sources, `C` audio channels, `L` samples, `R` rows on a logarithmic frequency axis, `T`
columns of time.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go
import torch
from einops import rearrange
from plotly.subplots import make_subplots
from torch import Tensor

from moises_light.config import Config, get_config
from moises_light.ui import jobs
from moises_light.ui.jobs import SAMPLE_RATE, Song, Take
from moises_light.ui.theme import DARK

ROWS = 128
COLUMNS = 400
FRAMES_PER_COLUMN = 6
LOWEST = 40.0
FLOOR_DB = 80.0
TICKS = {50: "50", 100: "100", 200: "200", 500: "500", 1000: "1k", 2000: "2k", 5000: "5k"}
TICKS |= {10000: "10k", 20000: "20k"}
GROUND = "#0f0f10"

VIEWS = {
    "song": "Song",
    "stems": "Stems",
    "masks": "Masks",
    "stems_b": "Stems of B",
    "masks_b": "Masks of B",
    "difference": "Masks, A − B",
}


def available(takes: list[Take]) -> list[str]:
    """Names of the pictures that can be shown."""
    slots = {take.slot for take in takes if take.ready}
    names = ["song"]
    names += ["stems", "masks"] if "a" in slots else []
    names += ["stems_b", "masks_b", "difference"] if slots == {"a", "b"} else []
    return names


def draw(song: Song, takes: list[Take], view: str) -> go.Figure:
    """One picture.

    Args:
        song: the song.
        takes: its takes.
        view: one of `VIEWS`; one that cannot be drawn (yet) becomes the song's.
    """
    by_slot = {take.slot: take for take in takes if take.ready}
    slot = "b" if view.endswith("_b") else "a"
    if view not in available(takes) or view == "song":
        return _draw_song(song, by_slot.get("a"))
    if view == "difference":
        return _draw_difference(song, by_slot["a"], by_slot["b"])
    take = by_slot[slot]
    return _draw_stems(song, take) if view.startswith("stems") else _draw_masks(song, take)


def frequencies(sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Centres of the rows in Hz, `[R]`: equal steps on a logarithmic axis."""
    edges = np.geomspace(LOWEST, sample_rate / 2, ROWS + 1)
    return np.sqrt(edges[:-1] * edges[1:])


def power(samples: np.ndarray, config: Config, columns: int = COLUMNS) -> Tensor:
    """Mean power per row and column, by the STFT that the network itself uses.

    Args:
        samples: audio `[L, S, C]`, which may be a memory map.
        config: names the STFT.
        columns: how many columns to pool to, if the audio has as many frames.

    Shape: `[S, R, T]`.
    """
    hop, n_fft = config.hop_size, config.n_fft
    every = 1 + len(samples) // hop
    # a picture of 400 columns needs some frames of each column, not each frame of an hour
    stride = max(1, every // (columns * FRAMES_PER_COLUMN)) * hop
    frames = 1 + len(samples) // stride
    columns = min(columns, frames)
    pooled = torch.zeros(samples.shape[1], ROWS, columns, dtype=torch.float64)
    count = torch.zeros(columns, dtype=torch.float64)
    matrix = _rows(n_fft)
    for first, spectrum in _spectra(samples, config, stride, frames):
        at = torch.arange(first, first + spectrum.shape[-1]) * columns // frames
        pooled.index_add_(2, at, torch.einsum("r f, s f t -> s r t", matrix, spectrum).double())
        count.index_add_(0, at, torch.ones(len(at), dtype=torch.float64))
    return (pooled / count).float()


def _spectra(
    samples: np.ndarray, config: Config, stride: int, frames: int, batch: int = 64
) -> Iterator[tuple[int, Tensor]]:
    """Power spectra `[S, F, t]` of a few frames at a time, averaged over the channels."""
    n_fft = config.n_fft
    window = torch.hann_window(config.win_size)
    for first in range(0, frames, batch):
        n = min(batch, frames - first)
        start = first * stride - n_fft // 2
        stop = start + (n - 1) * stride + n_fft
        inside = np.array(samples[max(0, start) : max(0, stop)], dtype=np.float32)
        x = rearrange(torch.from_numpy(inside), "l s c -> s c l")
        x = torch.nn.functional.pad(x, (max(0, -start), 0))
        x = torch.nn.functional.pad(x, (0, stop - start - x.shape[-1]))
        spectrum = torch.fft.rfft(x.unfold(-1, n_fft, stride) * window)
        yield first, spectrum.abs().square().mean(1).transpose(1, 2)


def _rows(n_fft: int) -> Tensor:
    """`[R, F]`: the mean of the bins of each row, or the nearest bin where a row has none."""
    edges = np.geomspace(LOWEST, SAMPLE_RATE / 2, ROWS + 1) / SAMPLE_RATE * n_fft
    matrix = torch.zeros(ROWS, n_fft // 2 + 1)
    for row, (low, high) in enumerate(pairwise(edges)):
        first, last = int(np.ceil(low)), int(np.floor(high))
        if last < first:
            first = last = round((low + high) / 2)
        matrix[row, first : last + 1] = 1 / (last - first + 1)
    return matrix


def levels(mean_power: Tensor, loudest: float) -> np.ndarray:
    """Decibels below `loudest` as bytes: 255 is as loud, 0 is 80 dB below."""
    decibels = 10 * torch.log10(mean_power / max(loudest, 1e-20) + 1e-12)
    return _bytes(decibels / FLOOR_DB + 1)


def shares(stems: Tensor, mixture: Tensor) -> Tensor:
    """The share of each bin that the network gave to each stem: `|stem| / |mixture|`, 0 to 1.

    Where the mixture is silent there is nothing to share, and the answer is 0.
    """
    audible = mixture > mixture.max() * 1e-8
    ratio = (stems / mixture.clamp_min(1e-20)).sqrt().clamp(0, 1)
    return torch.where(audible, ratio, torch.zeros_like(ratio))


def _bytes(x: Tensor) -> np.ndarray:
    return x.clamp(0, 1).mul(255).round().to(torch.uint8).numpy()


def _powers(song: Song, take: Take) -> tuple[Tensor, Tensor]:
    """Power of the mixture `[1, R, T]` and the stems `[S, R, T]` of a take's part of the song."""
    config = get_config(take.preset)
    whole = jobs.samples(song, "mixture")[take.start : take.start + take.ready]
    stems = jobs.samples(song, take.name, len(take.sources))[: take.ready]
    return power(whole, config), power(stems, config)


def _draw_song(song: Song, take: Take | None) -> go.Figure:
    config = get_config(take.preset if take else "paper_large")
    start = take.start if take else 0
    stop = start + take.frames if take else song.frames
    mean_power = power(jobs.samples(song, "mixture")[start:stop], config)
    figure = _figure(["song"], 320)
    seconds = (stop - start) / SAMPLE_RATE
    _heat(
        figure, 1, levels(mean_power[0], float(mean_power.max())), start, seconds, "Magma", _DB_BAR
    )
    if take:
        _mark_cutoff(figure, take, 1)
    return figure


def _draw_stems(song: Song, take: Take) -> go.Figure:
    mixture, stems = _powers(song, take)
    figure = _figure(take.sources)
    for row, (name, stem) in enumerate(zip(take.sources, stems, strict=True), 1):
        z = levels(stem, float(mixture.max()))
        _heat(figure, row, z, take.start, take.ready / SAMPLE_RATE, _ramp(name))
        _mark_cutoff(figure, take, row)
    return figure


def _draw_masks(song: Song, take: Take) -> go.Figure:
    mixture, stems = _powers(song, take)
    figure = _figure(take.sources)
    for row, (name, mask) in enumerate(zip(take.sources, shares(stems, mixture), strict=True), 1):
        _heat(figure, row, _bytes(mask), take.start, take.ready / SAMPLE_RATE, _ramp(name))
        _mark_cutoff(figure, take, row)
    return figure


def _draw_difference(song: Song, a: Take, b: Take) -> go.Figure:
    both = min(a.ready, b.ready)
    masks = []
    for take in (a, b):
        config = get_config(take.preset)
        whole = jobs.samples(song, "mixture")[take.start : take.start + both]
        stems = jobs.samples(song, take.name, len(take.sources))[:both]
        masks.append(shares(power(stems, config), power(whole, config)))
    figure = _figure(a.sources)
    for row, difference in enumerate(masks[0] - masks[1], 1):
        z = _bytes(difference / 2 + 0.5)
        _heat(figure, row, z, a.start, both / SAMPLE_RATE, _BOTH_WAYS, _DIFFERENCE_BAR)
    return figure


_DB_BAR = {"tickvals": [0, 255], "ticktext": ["−80 dB", "0 dB"]}
_DIFFERENCE_BAR = {"tickvals": [0, 127.5, 255], "ticktext": ["more in B", "equal", "more in A"]}
_BOTH_WAYS = [[0, "#f2b84b"], [0.5, GROUND], [1, "#5cc8f2"]]


def _ramp(source: str) -> list[list[object]]:
    """From the dark ground through the stem's colour to near white."""
    colour = DARK.get(source, DARK["accent"])
    return [[0, GROUND], [0.7, colour], [1, "#fdfcf8"]]


def _figure(names: tuple[str, ...] | list[str], height: int = 0) -> go.Figure:
    figure = make_subplots(
        rows=len(names),
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.045,
        subplot_titles=[name.capitalize() for name in names] if len(names) > 1 else None,
    )
    figure.update_layout(
        template=None,
        height=height or 90 + 150 * len(names),
        margin={"l": 44, "r": 8, "t": 26, "b": 32},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor=GROUND,
        font={"color": "#8a867e", "size": 12},
        hoverlabel={"bgcolor": GROUND, "bordercolor": "#8a867e", "font": {"color": "#f2f0ea"}},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": "#8a867e", "activecolor": "#8a867e"},
        showlegend=False,
        dragmode=False,
        uirevision="kept",
    )
    figure.update_annotations(x=0, xanchor="left", font={"size": 13})
    figure.update_yaxes(
        type="log",
        range=[np.log10(LOWEST), np.log10(SAMPLE_RATE / 2)],
        tickvals=list(TICKS),
        ticktext=list(TICKS.values()),
        showgrid=False,
        zeroline=False,
        fixedrange=True,
    )
    figure.update_xaxes(showgrid=False, zeroline=False, ticksuffix=" s", fixedrange=True)
    return figure


def _heat(
    figure: go.Figure,
    row: int,
    z: np.ndarray,
    start: int,
    seconds: float,
    colours: object,
    bar: dict[str, object] | None = None,
) -> None:
    step = seconds / max(1, z.shape[1])
    figure.add_trace(
        go.Heatmap(
            z=z,
            x0=start / SAMPLE_RATE + step / 2,
            dx=step,
            y=np.round(frequencies()).astype(np.float32),
            zmin=0,
            zmax=255,
            colorscale=colours,
            showscale=bar is not None and row == 1,
            colorbar={"thickness": 8, "len": 1.0, "outlinewidth": 0, **(bar or {})},
            hovertemplate="%{x:.1f} s, %{y:.0f} Hz<extra></extra>",
        ),
        row=row,
        col=1,
    )


def _mark_cutoff(figure: go.Figure, take: Take, row: int) -> None:
    """The line above which this preset processes nothing."""
    if take.cutoff >= SAMPLE_RATE / 2 - 100:
        return
    figure.add_hline(
        y=take.cutoff, line={"color": "#f2f0ea", "width": 1, "dash": "dot"}, row=row, col=1
    )
    if row > 1:
        return
    figure.add_annotation(
        text=f"nothing is processed above {take.cutoff / 1000:.1f} kHz",
        x=1,
        xref="x domain",
        xanchor="right",
        y=np.log10(take.cutoff),
        yanchor="top",
        showarrow=False,
        font={"size": 11, "color": "#f2f0ea"},
        bgcolor="rgba(0, 0, 0, 0.6)",  # a mask may be bright there
        row=row,
        col=1,
    )
