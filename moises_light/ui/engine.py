"""Presets, devices, loaded networks and how fast they are here. No Gradio."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from moises_light import weights
from moises_light.config import configs
from moises_light.model import MoisesLight, count_parameters
from moises_light.separation import Separator
from moises_light.ui import jobs

log = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])

ZERO_GPU = os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")
"""Whether this is a ZeroGPU Space, where a function asks for the GPU while it runs."""

try:
    import spaces
except ImportError:
    spaces = None


def _on_gpu(function: F, duration: Callable[..., int]) -> F:
    """The function as ZeroGPU wants it; elsewhere the function itself."""
    return spaces.GPU(duration=duration)(function) if ZERO_GPU else function


@dataclass(frozen=True)
class Preset:
    """What the page says of a preset.

    Args:
        name: its key.
        label: its name for people.
        cutoff: frequency in Hz above which it gives nothing.
        parameters: size of the network.
        available: whether there are weights for it.
        sdr: SDR in dB per stem and set, as its card has them.
        card: the rest of its card.
    """

    name: str
    label: str
    cutoff: float
    parameters: int
    available: bool
    sdr: dict[str, dict[str, float]]
    card: dict[str, Any]


@dataclass(frozen=True)
class Device:
    """Something that is really there to compute on."""

    name: str
    label: str


@cache
def _parameters_of(preset: str) -> int:
    # it builds the network to count, and the page asks at every touch of a setting
    return count_parameters(configs[preset])


def label_of(preset: str) -> str:
    """`"fullband_small_wide"` for people: "Fullband small wide"."""
    return preset.replace("_", " ").capitalize()


@cache
def find_devices() -> list[Device]:
    """The devices of this machine, the fastest first."""
    found = []
    if ZERO_GPU:
        found.append(Device("cuda", "GPU (ZeroGPU)"))
    elif torch.cuda.is_available():
        found.append(Device("cuda", f"GPU ({torch.cuda.get_device_name(0)})"))
    if torch.backends.mps.is_available():
        found.append(Device("mps", "GPU (Apple)"))
    threads = torch.get_num_threads()
    found.append(Device("cpu", f"CPU ({threads} {'thread' if threads == 1 else 'threads'})"))
    return found


# One loaded network per preset and device, for all visitors. It lives at module level because a
# ZeroGPU worker is a fork of this process and sees what was loaded before it.
_networks: dict[tuple[str | None, str, str], MoisesLight] = {}
_loading = threading.Lock()


def load_separator(
    folder: str | None, preset: str, device: str, residual: bool = False
) -> Separator:
    """The separator of a preset; its network is loaded once.

    Raises:
        ValueError: if there are no weights for it.
    """
    key = (folder, preset, device)
    with _loading:
        if key not in _networks:
            network = weights.load_pretrained(preset, folder).set_precision("auto")
            _networks[key] = network.to(device)
    return Separator(_networks[key], device=device, residual="other" if residual else None)


def _seconds_of_gpu(start: int, frames: int, ready: int, *others: object) -> int:
    """What to ask of ZeroGPU: a generous share of the length, and time to start."""
    return min(300, 20 + round((frames - ready) / jobs.SAMPLE_RATE / 6))


def _blocks(
    start: int,
    frames: int,
    ready: int,
    path: str,
    folder: str | None,
    preset: str,
    device: str,
    residual: bool,
) -> Generator[np.ndarray, None, None]:
    """Stems `[S, C, n]` of a part of a decoded song; only plain values cross to a GPU worker.

    Where some of it is ready, the rest comes out as it would have without a pause: segments lie
    as they would have lain, and the last one of what is ready is computed again for its overlap.
    """
    separator = load_separator(folder, preset, device, residual)
    song = jobs.Song(Path(path).parent, "", 0, 0.0, 0.0)
    hop = separator.hop_length
    first = max(0, ready // hop - 1) * hop
    mixture = (block[0] for block in jobs.read(song, "mixture", start + first, frames - first))
    past = ready - first
    for block in separator.blocks(mixture):
        if past < block.shape[-1]:
            yield block[..., past:].float().cpu().numpy()
        past = max(0, past - block.shape[-1])


_blocks_on_gpu = _on_gpu(_blocks, _seconds_of_gpu)


class Engine:
    """Runs presets from a folder of checkpoints.

    Args:
        folder: where the checkpoints are; `None` leaves it to `weights`.
    """

    def __init__(self, folder: str | Path | None = None):
        self.folder = None if folder is None else str(folder)
        self.devices = find_devices()
        self._speeds: dict[tuple[str, str], float] = {}
        self._computing = threading.Lock()

    def presets(self) -> dict[str, Preset]:
        """All presets, also those without weights."""
        there = weights.available(self.folder)
        found = {}
        for name, config in configs.items():
            card = dict(there[name].card) if name in there else {}
            found[name] = Preset(
                name=name,
                label=label_of(name),
                cutoff=config.cutoff,
                parameters=_parameters_of(name),
                available=name in there,
                sdr=card.get("sdr", {}),
                card=card,
            )
        return found

    def check(self, preset: str, device: str) -> Preset:
        """The preset, if it can run on that device here.

        Raises:
            ValueError: if it cannot; the message says what can.
        """
        presets = self.presets()
        runnable = [p.label for p in presets.values() if p.available]
        if preset not in presets:
            raise ValueError(f"there is no preset {preset!r}; choose one of {', '.join(presets)}")
        if not presets[preset].available:
            can = f"choose {' or '.join(runnable)}" if runnable else "no preset has any yet"
            raise ValueError(f"{presets[preset].label} has no trained weights here; {can}")
        if device not in [d.name for d in self.devices]:
            names = ", ".join(d.name for d in self.devices)
            raise ValueError(f"there is no device {device!r} here; choose one of {names}")
        return presets[preset]

    def blocks(self, song: jobs.Song, take: jobs.Take) -> Iterator[Tensor]:
        """Stems `[S, C, n]` of what the take lacks, in order, as they are finished."""
        work = _blocks_on_gpu if ZERO_GPU and take.device == "cuda" else _blocks
        arrays = work(
            take.start,
            take.frames,
            take.ready,
            str(song.folder / "mixture.f32"),
            self.folder,
            take.preset,
            take.device,
            take.residual,
        )
        try:
            while True:
                with self._computing:
                    array = next(arrays, None)
                if array is None:
                    return
                yield torch.from_numpy(array)
        finally:
            arrays.close()

    def rest(self, seconds: float = 60.0) -> None:
        """Wait for the block that is being computed, and compute no more.

        A thread that is inside torch when Python ends takes the whole process down with it.
        """
        if self._computing.acquire(timeout=seconds):
            time.sleep(0.3)  # the block is written with torch, too

    def learn(self, take: jobs.Take) -> None:
        """Remember how fast a run was."""
        if take.ready > 5 * jobs.SAMPLE_RATE:
            speed = take.work / (take.ready / jobs.SAMPLE_RATE)
            self._speeds[take.preset, take.device] = speed

    def speed(self, preset: str, device: str) -> float | None:
        """Seconds of work per second of music, as measured here, or `None`."""
        return self._speeds.get((preset, device))

    def measure(self, stop: threading.Event, seconds: float = 6.0) -> None:
        """Estimate the speed of every preset with weights by one segment of noise.

        Meant for a thread of its own right after the start. On ZeroGPU the GPU's time belongs to
        the visitors, so there only finished runs tell.

        Args:
            stop: ends the work when the preset that is being measured is done.
            seconds: of noise.
        """
        for preset in self.presets().values():
            for device in self.devices:
                if stop.is_set():
                    return
                if not preset.available or (ZERO_GPU and device.name == "cuda"):
                    continue
                if self.speed(preset.name, device.name) is not None:
                    continue
                try:
                    separator = load_separator(self.folder, preset.name, device.name)
                    noise = 0.1 * torch.randn(jobs.CHANNELS, int(seconds * jobs.SAMPLE_RATE))
                    begun = time.perf_counter()
                    for _ in separator.blocks(noise):
                        pass
                    spent = time.perf_counter() - begun
                    self._speeds.setdefault((preset.name, device.name), spent / seconds)
                except Exception as error:  # an estimate must never take the page down
                    log.warning("could not measure %s on %s: %s", preset.name, device.name, error)
