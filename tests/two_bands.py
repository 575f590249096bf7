"""A network of two bands for tests that turn one network's weights into another's."""

from __future__ import annotations

from typing import Any

import torch

from moises_light.config import Config
from moises_light.model import MoisesLight

SMALL: dict[str, Any] = dict(
    Config(
        n_fft=256,
        win_size=256,
        hop_size=64,
        freq_dim=64,
        n_bands=2,
        G=8,
        n_rope=0,
        heads=2,
        dim_head=8,
    )
)


def make(**changes: Any) -> MoisesLight:
    torch.manual_seed(len(changes))
    model = MoisesLight(**{**SMALL, **changes})
    for p in model.parameters():  # so that biases, gains and zero-started layers take part
        if p.requires_grad:
            p.data += 0.05 * torch.randn_like(p)
    return model
