"""A narrower network that starts from a wider one's weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from two_bands import SMALL, make

from moises_light import weights
from moises_light.config import configs
from moises_light.model import MoisesLight
from moises_light.training.grow import grow
from moises_light.training.prune import (
    importance,
    lower,
    main,
    prune,
    put_back,
    shallower,
    spaces,
    without_block,
)


def spectrum() -> torch.Tensor:
    return torch.randn(2, 2, 16, SMALL["freq_dim"], 2, generator=torch.manual_seed(0))


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    sources = 0.1 * torch.randn(2, 4, 2, 15 * 64, generator=torch.manual_seed(1))
    return [(sources.sum(1), sources)]


@torch.no_grad()
def silence(model: MoisesLight, share: float) -> None:
    """Make some features of every space zero, others in each band."""
    generator = torch.Generator().manual_seed(2)
    silent: dict[str, torch.Tensor] = {}
    for name, _, space in spaces(model):
        for norm in model.get_submodule(name).modules() if space else ():
            if isinstance(norm, nn.BatchNorm2d):
                width = norm.num_features // model.config.n_bands
                if space not in silent:
                    order = torch.rand(model.config.n_bands, width, generator=generator).argsort(1)
                    silent[space] = (order < round(share * width)).flatten()
                norm.weight[silent[space]] = 0
                norm.bias[silent[space]] = 0


def test_features_that_are_silent_go_first() -> None:
    model = make().eval()
    silence(model, 0.25)
    before = {key: x.clone() for key, x in model.state_dict().items()}
    worth = importance(model, batches(), bf16=False)
    for key, x in model.state_dict().items():
        assert torch.equal(x, before[key]), key
    assert not model.training
    narrow = prune(model, 6, worth)
    assert narrow.config.G == 6
    assert not narrow.training
    for train in (False, True):
        with torch.no_grad():
            wanted, kept = (m.train(train).estimate_masks(spectrum()) for m in (model, narrow))
        torch.testing.assert_close(kept, wanted, rtol=1e-4, atol=1e-5)


def test_the_least_useful_are_missed_least() -> None:
    model = make(n_rope=2).eval()
    silence(model, 0.25)
    worth = importance(model, batches(), bf16=False)
    opposite = {space: -value for space, value in worth.items()}
    with torch.no_grad():
        wanted, best, worst = (
            masks - masks.mean((0, 3, 4), keepdim=True)  # what follows the input
            for m in (model, prune(model, 6, worth), prune(model, 6, opposite))
            for masks in [m.estimate_masks(spectrum())]
        )
    near = torch.corrcoef(torch.stack([wanted.flatten(), best.flatten(), worst.flatten()]))[0]
    assert near[1] > 0.95
    assert 1 - near[1] < (1 - near[2]) / 10


def test_every_layer_has_its_place() -> None:
    model = make(n_rope=1).eval()
    named = [name for name, *_ in spaces(model)]
    assert len(set(named)) == len(named)
    parts = ("rope_blocks", "source_head")
    told = {
        name
        for name, p in model.named_parameters()
        if p.requires_grad and not any(part in name for part in parts)
    }
    reached = {
        f"{name}.{key}" for name in named for key, _ in model.get_submodule(name).named_parameters()
    }
    assert reached == told


def test_pruned_weights_learn() -> None:
    model = make(n_rope=1).eval()
    narrow = prune(model, 4, importance(model, batches(), bf16=False)).train()
    narrow.estimate_masks(spectrum()).square().mean().backward()
    for name, p in narrow.named_parameters():
        if p.requires_grad and p.ndim > 1:
            assert p.grad is not None
            assert p.grad.abs().max() > 0, name


def test_a_preset_becomes_another() -> None:
    wide = MoisesLight(**configs["fullband_small_wide"])
    worth = {
        space: torch.rand(norm.num_features)
        for name, _, space in spaces(wide)
        if space
        for norm in wide.get_submodule(name).modules()
        if isinstance(norm, nn.BatchNorm2d)
    }
    assert prune(wide, 36, worth).config == configs["fullband_small"]


@pytest.mark.parametrize("block", [0, 1, 2])
@torch.no_grad()
def test_without_a_block_all_else_is_as_before(block: int) -> None:
    model = make(n_rope=3).eval()
    less = without_block(model, block)
    assert (less.config.n_rope, less.training) == (2, False)
    kept = less.estimate_masks(spectrum())
    assert not torch.allclose(kept, model.estimate_masks(spectrum()), rtol=1e-3)
    for name in model.depth_gains():
        if name.startswith(f"bottleneck.rope_blocks.{block}."):
            model.get_parameter(name).zero_()  # adds nothing
    torch.testing.assert_close(kept, model.estimate_masks(spectrum()), rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_blocks_that_add_nothing_go_first() -> None:
    model = make(n_rope=4).eval()
    for name in model.depth_gains():
        if name.split(".")[2] in ("1", "3"):
            model.get_parameter(name).zero_()
    less, gone = shallower(model, 2, batches())
    assert sorted(gone) == [1, 3]
    wanted = model.estimate_masks(spectrum())
    torch.testing.assert_close(less.estimate_masks(spectrum()), wanted, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match=r"n_rope=4; .* less than the 4"):
        shallower(model, 4, batches())
    with pytest.raises(ValueError, match=r"block=4; the network has n_rope=4"):
        without_block(model, 4)


@torch.no_grad()
def test_a_shallower_network_grows_wider() -> None:
    """The way from `paper_small` to `paper_large`, which has fewer blocks."""
    model = without_block(make(n_rope=3), 1)
    wide = make(n_rope=2, G=12)
    grow(model, wide)
    masks, wider = (m.train().estimate_masks(spectrum()) for m in (model, wide))
    near = torch.corrcoef(torch.stack([masks.flatten(), wider.flatten()]))[0, 1]
    assert near > 0.98


@torch.no_grad()
def test_the_lowest_bands_are_what_others_grew_from() -> None:
    small, large = make(n_rope=1), make(n_rope=1, freq_dim=128, n_bands=4, G=16)
    grow(small, large)
    back = lower(large.eval(), 2)
    assert (back.config, back.training) == (small.config, False)
    for name, value in small.state_dict().items():
        if ".layers.0.1.net." not in name:  # strength chooses among the units of both
            torch.testing.assert_close(back.state_dict()[name], value, msg=name)


def test_a_fullband_preset_becomes_one_of_the_paper() -> None:
    wide = MoisesLight(**configs["fullband_small_wide"])
    assert lower(wide, 4).config == configs["paper_small"]


def test_a_file_of_a_preset_says_so(tmp_path: Path) -> None:
    wide, low, back = (tmp_path / f"{name}.safetensors" for name in ("wide", "low", "back"))
    weights.save(MoisesLight(**configs["fullband_small_wide"]), wide, {"card": {"seed": 3}})
    assert main([str(wide), str(low), "--bands", "4", "--frozen-norms"]) == 0
    assert weights.load(low).metadata["preset"] == "paper_small"
    assert main([str(wide), str(back), "--put-back", str(low)]) == 0
    assert weights.load(back).metadata["preset"] == "fullband_small_wide"
    before, after = weights.load(wide).state_dict, weights.load(back).state_dict
    for name, value in after.items():
        torch.testing.assert_close(value, before[name], msg=name, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("bands", [0, 2])
def test_bands_that_are_not_there(bands: int) -> None:
    with pytest.raises(
        ValueError, match=rf"n_bands={bands}; choose at least 1 and less than the 2"
    ):
        lower(make(), bands)


def test_what_the_lowest_bands_learnt_goes_back() -> None:
    model = make(n_rope=1, freq_dim=128, n_bands=4, G=16).eval()
    before = {key: x.clone() for key, x in model.state_dict().items()}
    low = lower(model, 2)
    for key, x in put_back(low, model).state_dict().items():
        torch.testing.assert_close(x, before[key], msg=key)
    with torch.no_grad():
        low.final_conv.conv.bias += 1
        low.first_conv.conv.weight *= 2
        low.get_parameter("bottleneck.split_merge.res.conv.weight").neg_()
    after = put_back(low, model)
    for key, x in model.state_dict().items():
        assert torch.equal(x, before[key]), key
    for key, x in lower(after, 2).state_dict().items():
        torch.testing.assert_close(x, low.state_dict()[key], msg=key)
    # half of the bands are the lowest, and the others are as they were
    for name, change in (
        ("final_conv.conv.bias", lambda x: x + 1),
        ("first_conv.conv.weight", lambda x: 2 * x),
        ("bottleneck.split_merge.res.conv.weight", torch.neg),
    ):
        old, new = before[name], after.state_dict()[name]
        n = len(old) // 2
        torch.testing.assert_close(new[:n], change(old[:n]), msg=name)
        assert torch.equal(new[n:], old[n:]), name


def test_what_cannot_go_back() -> None:
    model = make(n_rope=1, freq_dim=128, n_bands=4, G=16)
    with pytest.raises(ValueError, match="G=6 and not 8; give a network of the lowest bands"):
        put_back(make(n_rope=1, G=6), model)
    with pytest.raises(ValueError, match="n_bands=4; choose at least 1 and less than the 4"):
        put_back(model, model)


def test_a_file_goes_back_and_says_so(tmp_path: Path) -> None:
    model = make(n_rope=1, freq_dim=128, n_bands=4, G=16)
    high, low, out = (tmp_path / f"{name}.safetensors" for name in ("high", "low", "out"))
    weights.save(model, high, {})
    weights.save(lower(model, 2), low, {"card": {"seed": 3, "sdr": {}}})
    command = [str(high), str(out), "--put-back", str(low)]
    with pytest.raises(ValueError, match="goes without --features, --blocks and --bands"):
        main([*command, "--bands", "2"])
    with pytest.raises(ValueError, match=r"out.pt does not end in \.safetensors"):
        main([str(high), str(tmp_path / "out.pt"), "--put-back", str(low)])
    assert main(command) == 0
    found = weights.load(out)
    assert found.config == model.config
    # the scores are another network's
    assert found.metadata["card"] == {"seed": 3, "earlier_runs": [], "put_back": "high"}


def test_nothing_to_prune(tmp_path: Path) -> None:
    weights.save(make(), tmp_path / "wide.safetensors")
    with pytest.raises(ValueError, match="give --features, --blocks, --bands or several"):
        main([str(tmp_path / "wide.safetensors"), str(tmp_path / "narrow.safetensors")])


def test_a_wrong_name_is_told_before_the_work(tmp_path: Path) -> None:
    weights.save(make(), tmp_path / "wide.safetensors")
    command = [str(tmp_path / "wide.safetensors"), str(tmp_path / "narrow.pt"), "--features", "4"]
    with pytest.raises(ValueError, match=r"narrow.pt does not end in \.safetensors"):
        main([*command, "--corpus", str(tmp_path / "nowhere")])


@pytest.mark.parametrize(("features", "told"), [(8, "G=8 is not less than G=8"), (5, "divisible")])
def test_what_cannot_be_pruned(features: int, told: str) -> None:
    model = make().eval()
    with pytest.raises(ValueError, match=told):
        prune(model, features, importance(model, batches(), bf16=False))
