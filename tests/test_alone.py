"""What is left of a source that plays alone."""

from __future__ import annotations

import torch

from bench.alone import LENGTH, alone
from moises_light import MoisesLight

TINY = {"freq_dim": 3072, "n_bands": 6, "G": 6, "n_rope": 1}


def test_half_of_a_source_is_six_decibels_in_every_band() -> None:
    model = MoisesLight(**TINY).eval()
    with torch.no_grad():
        model.source_head.weight.zero_()
        model.source_head.bias.fill_(0.5)
    sdr, largest = alone(model, "vocals", torch.randn(2, LENGTH))
    torch.testing.assert_close(sdr, torch.full((6,), 6.02), atol=0.01, rtol=0)
    torch.testing.assert_close(largest, torch.full((6,), 0.5))


def test_bands_without_the_source_have_no_score() -> None:
    time = torch.arange(LENGTH) / 44100
    tone = (torch.sin(2 * torch.pi * 1000 * time) * torch.hann_window(LENGTH)).expand(2, -1)
    sdr, _ = alone(MoisesLight(**TINY).eval(), "other", tone)
    assert sdr.isnan().tolist() == [True, True, False, True, True, True]
