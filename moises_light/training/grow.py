"""Start a larger network from a smaller one's weights, so that nothing is learnt twice.

The larger network may have more bands of the same width (a wider range of frequencies) and more
features a band. What the small one has takes the same place in the large one and hears nothing of
the new features; a new band begins as a copy of the highest old one, in its place among the others;
new features begin at random. Masks of the old bands stay what they were, but for the transformers'
norm, which counts all features.

It may also have more transformers, which add nothing at first, or fewer (`paper_large` has five
blocks, `paper_small` six): then the last ones are lost, and what they had learnt with them.

The idea is Net2Net's (arXiv 1511.05641); what is done with bands is ours.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from moises_light.config import Config
from moises_light.model import (
    Attention,
    FeedForward,
    GroupConv,
    MoisesLight,
    RMSNorm,
    TimeDistributedFrequency,
    TimeDown,
    TimeUp,
)

GROWS = ("freq_dim", "n_bands", "G", "n_rope")
"""Fields of `Config` in which the two networks may differ."""


@torch.no_grad()
def grow(small: MoisesLight, large: MoisesLight) -> None:
    """Write the weights of `small` into `large`, which comes freshly made.

    Raises:
        ValueError: if `large` is not an extension of `small`.
    """
    _check(small.config, large.config)
    modules = dict(large.named_modules())
    bands = (small.config.n_bands, large.config.n_bands)
    for name, old in small.named_modules():
        if name in modules:
            _grow_module(old, modules[name], bands)
    for name in large.depth_gains().keys() - small.depth_gains().keys():
        large.get_parameter(name).zero_()  # further transformers add nothing yet
    large.source_head.load_state_dict(small.source_head.state_dict())  # all bands share it
    # more bins above the music lower the deviation by which the input is divided
    large.first_conv.conv.weight *= (bands[0] / bands[1]) ** 0.5


def _check(small: Config, large: Config) -> None:
    odd = [k for k in dict(small) if k not in GROWS and small[k] != large[k]]
    if odd:
        told = ", ".join(f"{k}={small[k]!r} against {large[k]!r}" for k in odd)
        raise ValueError(f"the networks differ in {told}; only {', '.join(GROWS)} can grow")
    if small.freq_dim * large.n_bands != large.freq_dim * small.n_bands:
        raise ValueError(
            f"bands of {small.freq_dim // small.n_bands} bins cannot become bands of "
            f"{large.freq_dim // large.n_bands}; the width of a band stays"
        )
    features = small.G // small.n_bands, large.G // large.n_bands
    if small.n_bands > large.n_bands or features[0] > features[1]:
        raise ValueError(
            f"n_bands={small.n_bands} with {features[0]} features each cannot become "
            f"n_bands={large.n_bands} with {features[1]}; neither may shrink"
        )


def _grow_module(old: nn.Module, new: Any, bands: tuple[int, int]) -> None:
    if isinstance(old, GroupConv):
        _rows(old.conv, new.conv, bands)
        _norm(old.bn, new.bn, bands)
    elif isinstance(old, TimeDistributedFrequency):
        for fc in ("fc1", "fc2"):
            getattr(new, fc).load_state_dict(getattr(old, fc).state_dict())
        for bn in ("bn1", "bn2"):
            _norm(getattr(old, bn), getattr(new, bn), bands)
    elif isinstance(old, TimeDown):
        _dense(old.conv.weight, new.conv.weight, bands)
        _vector(_bias(old.conv), new.conv.bias, bands)
        _norm(old.bn, new.bn, bands)
    elif isinstance(old, TimeUp):
        _dense(old.conv.weight.transpose(0, 1), new.conv.weight.transpose(0, 1), bands)
        _vector(_bias(old.conv), new.conv.bias, bands)
        _norm(old.bn, new.bn, bands)
    elif isinstance(old, RMSNorm):
        _vector(old.gamma, new.gamma, bands)
    elif isinstance(old, Attention):
        _columns(old.to_qkv, new.to_qkv, bands)
        _columns(old.to_gates, new.to_gates, bands)
        _rows(cast(nn.Linear, old.to_out[0]), new.to_out[0], bands)
    elif isinstance(old, FeedForward):
        _columns(cast(nn.Linear, old.net["1"]), new.net["1"], bands)
        _rows(cast(nn.Linear, old.net["4"]), new.net["4"], bands)


def _bias(layer: nn.Conv2d | nn.ConvTranspose2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias


def _places(old: int, new: int, bands: tuple[int, int]) -> Tensor:
    """Where the features of the old bands lie among the new: `[old]`."""
    starts = torch.arange(bands[0]) * (new // bands[1])
    return (starts[:, None] + torch.arange(old // bands[0])).flatten()


def _vector(old: Tensor, new: Tensor, bands: tuple[int, int]) -> None:
    """Values of features, `[D]`; also the first axis of `[D, ...]`."""
    new[_places(len(old), len(new), bands)] = old
    by_band = new.unflatten(0, (bands[1], -1))
    by_band[bands[0] :] = by_band[bands[0] - 1]


def _norm(old: nn.BatchNorm2d, new: nn.BatchNorm2d, bands: tuple[int, int]) -> None:
    for key in ("weight", "bias", "running_mean", "running_var"):
        _vector(getattr(old, key), getattr(new, key), bands)


def _rows(old: nn.Linear | nn.Conv2d, new: nn.Linear | nn.Conv2d, bands: tuple[int, int]) -> None:
    """Layers from anything to features: the old ones hear nothing of what is new to the input."""
    places = _places(len(old.weight), len(new.weight), bands)
    rows = torch.zeros_like(new.weight[places])
    rows[:, : old.weight.shape[1]] = old.weight
    _vector(rows, new.weight, bands)
    if old.bias is not None and new.bias is not None:
        _vector(old.bias, new.bias, bands)


def _columns(old: nn.Linear, new: nn.Linear, bands: tuple[int, int]) -> None:
    """Layers from features to anything."""
    n = len(old.weight)
    new.weight[:n] = 0
    new.weight[:n, _places(old.weight.shape[1], new.weight.shape[1], bands)] = old.weight
    if old.bias is not None:
        new.bias[:n] = old.bias


def _dense(old: Tensor, new: Tensor, bands: tuple[int, int]) -> None:
    """Weights from features to features, `[D', D, ...]`, that mix the bands."""
    rows = _places(old.shape[0], new.shape[0], bands)
    columns = _places(old.shape[1], new.shape[1], bands)
    new[rows] = 0
    new[rows[:, None], columns] = old
    # [band out, feature out, band in, feature in, ...]
    blocks = new.unflatten(1, (bands[1], -1)).unflatten(0, (bands[1], -1))
    top = bands[0] - 1
    own = blocks[top, :, top].clone()
    for band in range(bands[0], bands[1]):
        blocks[band] = blocks[top]
        blocks[band, :, top] = 0
        blocks[band, :, band] = own
