"""A larger network that starts from a smaller one's weights."""

from __future__ import annotations

import pytest
import torch
from two_bands import SMALL, make

from moises_light.config import configs
from moises_light.model import MoisesLight
from moises_light.training.grow import grow


def spectrum(model: MoisesLight) -> torch.Tensor:
    parts = torch.randn(2, 2, 16, SMALL["freq_dim"], 2, generator=torch.manual_seed(0))
    # the mean is taken off over all bins: without one, empty bins change nothing
    parts[..., 1] = parts[..., 0].flip(1).neg()
    parts[:, 1] = -parts[:, 0]
    above = model.config.freq_dim - SMALL["freq_dim"]
    return torch.nn.functional.pad(parts, (0, 0, 0, above))


@pytest.mark.parametrize(
    "changes",
    [{"G": 12}, {"freq_dim": 96, "n_bands": 3, "G": 12}, {"freq_dim": 128, "n_bands": 4, "G": 24}],
    ids=["features", "bands", "both"],
)
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_masks_of_the_old_bands_stay(changes: dict[str, int], train: bool) -> None:
    small, large = make(), make(**changes)
    fresh = make(**changes)
    grow(small, large)
    masks = []
    for model in (small, large, fresh):
        with torch.no_grad():
            masks.append(model.train(train).estimate_masks(spectrum(model))[..., :64, :])
    torch.testing.assert_close(masks[1], masks[0], rtol=1e-4, atol=1e-4)
    assert (masks[2] - masks[0]).abs().max() > 0.01


def test_with_transformers_they_nearly_stay() -> None:
    small = make(n_rope=2)
    changes = {"freq_dim": 96, "n_bands": 3, "G": 12, "n_rope": 2}
    large, fresh = make(**changes), make(**changes)
    grow(small, large)
    with torch.no_grad():
        wanted, grown, other = (
            m.estimate_masks(spectrum(m))[..., :64, :].flatten() for m in (small, large, fresh)
        )
    near = torch.corrcoef(torch.stack([wanted, grown, other]))[0]
    assert near[1] > 0.9 > near[2]


def test_further_transformers_add_nothing_yet() -> None:
    small, large, fresh = make(n_rope=1), make(n_rope=3), make(n_rope=3)
    grow(small, large)
    with torch.no_grad():
        wanted, grown, other = (m.estimate_masks(spectrum(m)) for m in (small, large, fresh))
    torch.testing.assert_close(grown, wanted, rtol=1e-4, atol=1e-4)
    assert (other - wanted).abs().max() > 0.01


def test_new_features_learn() -> None:
    small, large = make(n_rope=1), make(G=12, n_rope=1)
    grow(small, large)
    large.estimate_masks(spectrum(large)).square().mean().backward()
    for name, p in large.named_parameters():
        if p.requires_grad and p.ndim > 1:
            assert p.grad is not None
            assert p.grad.abs().max() > 0, name


def test_presets_grow() -> None:
    with torch.device("meta"):
        small = MoisesLight(**configs["paper_small"])
    for name in ("fullband_small_wide", "paper_large", "fullband_large"):
        with torch.device("meta"):
            large = MoisesLight(**configs[name])
        grow(small, large)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"n_fft": 512}, "n_fft=256 against 512"),
        ({"freq_dim": 128}, "bands of 32 bins cannot become bands of 64"),
        ({"freq_dim": 96, "n_bands": 3, "G": 9}, "with 4 features each cannot become n_bands=3"),
    ],
)
def test_what_cannot_grow(changes: dict[str, int], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        grow(make(), make(**changes))
