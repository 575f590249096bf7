"""What describes a network: one frozen value, and the six presets. Standard library only."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any

SOURCES = ("vocals", "drums", "bass", "other")

DEFAULT_PRESET = "paper_large"
"""Preset that separates where none is named: nearly the best with weights, and not the slowest."""


MOST = 2**20
"""Largest number of a config: what a file says may be anything, and torch counts to 2**63."""
MOST_NAMES = 64
"""Most sources, and most audio channels."""


@dataclass(frozen=True)
class Config(Mapping[str, Any]):
    """The arguments of `MoisesLight`, checked when the value is made.

    A `Config` is a mapping, so `MoisesLight(**configs["paper_large"])` and
    `{**configs["paper_large"], "sources": ["vocals"]}` both work.

    Args:
        sources: names of the sources, in the order of the output's `S` axis.
        audio_channels: channels of the audio, `C`.
        n_fft: FFT length in samples.
        hop_size: samples between STFT frames.
        win_size: length of the periodic Hann window in samples, at most `n_fft`.
        freq_dim: lowest STFT bins that the network processes; those above come out as zero.
        n_bands: bands of equal width that the group convolutions keep apart, `K`.
        G: channels of the first encoder stage; stage `i` has `G * (i + 1)`.
        n_enc: encoder stages; each halves the frames.
        n_dec: decoder stages with a split-and-merge block; the other `n_enc - n_dec` are light.
        n_split_enc: group convolutions on each side of the TDF in encoder and bottleneck.
        n_split_dec: the same in the decoder.
        n_rope: dual-path transformer blocks in the bottleneck.
        bn_factor: compression of the frequency axis inside the TDF.
        heads: attention heads.
        dim_head: features of one head.
        ff_mult: width of the transformer's feed-forward layer, in multiples of its input.
        sample_rate: sample rate that the network is meant for, in Hz.

    Raises:
        ValueError: if the values do not fit together, or one is beyond `MOST` or `MOST_NAMES`.

    Source: Moises-Light, sec. 3, and the package `moises-light` 0.1.0 where the paper is silent.
    """

    sources: tuple[str, ...] = SOURCES
    audio_channels: int = 2
    n_fft: int = 6144
    hop_size: int = 1024
    win_size: int = 6144
    freq_dim: int = 2048
    n_bands: int = 4
    G: int = 56
    n_enc: int = 3
    n_dec: int = 1
    n_split_enc: int = 3
    n_split_dec: int = 1
    n_rope: int = 5
    bn_factor: int = 4
    heads: int = 4
    dim_head: int = 32
    ff_mult: int = 2
    sample_rate: int = 44100

    def __post_init__(self) -> None:
        if isinstance(self.sources, str):
            raise ValueError(
                f"sources is the text {self.sources!r}; give a list of names, "
                f"for example [{self.sources!r}]"
            )
        if isinstance(self.sources, Mapping):
            raise ValueError("sources is a mapping; a config is given as **config")
        if isinstance(self.sources, set | frozenset) or not isinstance(self.sources, Iterable):
            raise ValueError(
                f"sources is {self.sources!r}; give a list of names, for example ['vocals']"
            )
        object.__setattr__(self, "sources", tuple(self.sources))
        self._check_sources()
        self._check_numbers()

    def _check_sources(self) -> None:
        if not self.sources:
            raise ValueError("sources is empty; name at least one, for example ['vocals']")
        if len(self.sources) > MOST_NAMES:
            raise ValueError(f"sources has {len(self.sources)} names; give at most {MOST_NAMES}")
        for name in self.sources:
            if not isinstance(name, str) or not name:
                raise ValueError(f"sources holds {name!r}; every source is a name such as 'vocals'")
        if len(set(self.sources)) < len(self.sources):
            raise ValueError(f"sources {list(self.sources)} names one source twice; name each once")

    def _check_numbers(self) -> None:
        for field in fields(self):
            if field.name == "sources":
                continue
            value = getattr(self, field.name)
            least = 0 if field.name in ("n_dec", "n_rope") else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{field.name}={value!r}; it must be a whole number >= {least}")
            most = MOST_NAMES if field.name == "audio_channels" else MOST
            if value > most:
                raise ValueError(f"{field.name}={reprlib.repr(value)}; choose at most {most}")
        if self.G % self.n_bands:
            below = self.G - self.G % self.n_bands
            nearest = [g for g in (below, below + self.n_bands) if g]
            raise ValueError(
                f"G={self.G} is not divisible by n_bands={self.n_bands}; "
                f"the nearest values that are: {', '.join(map(str, nearest))}"
            )
        if self.freq_dim > self.n_bins:
            raise ValueError(
                f"freq_dim={self.freq_dim} is beyond the spectrum: n_fft={self.n_fft} "
                f"has {self.n_bins} bins; choose at most that many"
            )
        if self.freq_dim % self.n_bands:
            raise ValueError(
                f"freq_dim={self.freq_dim} is not divisible by n_bands={self.n_bands}; "
                f"choose a multiple of {self.n_bands}"
            )
        if self.freq_dim // self.n_bands < self.bn_factor:
            raise ValueError(
                f"bn_factor={self.bn_factor} leaves nothing of {self.freq_dim // self.n_bands} "
                f"bins a band; choose a smaller bn_factor"
            )
        if self.n_dec > self.n_enc:
            raise ValueError(
                f"n_dec={self.n_dec} is more than n_enc={self.n_enc}; "
                f"every decoder stage needs an encoder stage"
            )
        if self.n_fft % 2:
            raise ValueError(f"n_fft={self.n_fft} is odd; choose an even one, best a power of two")
        if self.win_size > self.n_fft:
            raise ValueError(f"win_size={self.win_size} is longer than n_fft={self.n_fft}")
        if self.hop_size > self.win_size // 2:
            raise ValueError(
                f"hop_size={self.hop_size} is more than half of win_size={self.win_size}, "
                f"so the STFT could not be inverted; choose at most {self.win_size // 2}"
            )
        if self.dim_head % 2:
            raise ValueError(f"dim_head={self.dim_head} is odd; rotary positions need pairs")

    @property
    def n_bins(self) -> int:
        """Bins of the whole STFT."""
        return self.n_fft // 2 + 1

    @property
    def cutoff(self) -> float:
        """Frequency in Hz above which the network gives nothing."""
        return min(self.freq_dim / self.n_fft, 0.5) * self.sample_rate

    def __iter__(self) -> Iterator[str]:
        return (field.name for field in fields(self))

    def __len__(self) -> int:
        return len(fields(self))

    def __getitem__(self, key: str) -> Any:
        if key not in tuple(self):
            raise KeyError(key)
        return getattr(self, key)


_PAPER_LARGE = Config()
_PAPER_SMALL = replace(_PAPER_LARGE, G=32, n_rope=6)
_FULLBAND_LARGE = replace(_PAPER_LARGE, freq_dim=3072, n_bands=6, G=60)
_FULLBAND_SMALL = replace(_FULLBAND_LARGE, G=36, n_rope=6)

configs: Mapping[str, Config] = MappingProxyType(
    {
        "paper_large": _PAPER_LARGE,
        "paper_small": _PAPER_SMALL,
        "fullband_large": _FULLBAND_LARGE,
        "fullband_small": _FULLBAND_SMALL,
        "fullband_large_wide": replace(_FULLBAND_LARGE, G=84),
        "fullband_small_wide": replace(_FULLBAND_SMALL, G=48),
    }
)
"""The six presets of the seed, by name."""


def get_config(preset: str) -> Config:
    """The preset of that name.

    Raises:
        ValueError: if there is none; the message names those there are.

    >>> get_config("paper_small").G
    32
    """
    try:
        return configs[preset]
    except KeyError:
        raise ValueError(
            f"no preset is called {preset!r}; choose one of {', '.join(configs)}"
        ) from None
