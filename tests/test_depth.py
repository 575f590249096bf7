"""What a block of the bottleneck is worth."""

from __future__ import annotations

import torch

from bench.depth import without
from moises_light import MoisesLight

TINY = {"n_fft": 512, "hop_size": 128, "win_size": 512, "freq_dim": 128, "G": 4, "n_rope": 2}


def test_a_block_taken_out_adds_nothing() -> None:
    torch.manual_seed(0)
    model = MoisesLight(**TINY).eval()
    x = torch.randn(32, 8, 16)
    less = without(model, 1)
    with torch.no_grad():
        first, second = less.bottleneck.rope_blocks
        torch.testing.assert_close(first(x, 1), model.bottleneck.rope_blocks[0](x, 1))
        # each of its two transformers has a residual round its layers and one round both
        torch.testing.assert_close(second(x, 1), 4 * x)
        assert not torch.allclose(model.bottleneck.rope_blocks[1](x, 1), 4 * x)
