"""What a block of the bottleneck is worth."""

from __future__ import annotations

import torch

from bench.depth import loss, without
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


def test_sources_that_a_network_does_not_separate_do_not_count() -> None:
    torch.manual_seed(0)
    sources = 0.1 * torch.randn(4, 2, 128 * 15)
    model = MoisesLight(**TINY, sources=["bass"]).eval()
    others = sources.clone()
    others[[0, 1, 3]] = 0
    assert loss(model, [(sources.sum(0), sources)]) == loss(model, [(sources.sum(0), others)])
