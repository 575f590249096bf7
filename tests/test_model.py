"""The network: agreement with the reference package, and truths of its own."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from moises_light import MoisesLight, configs
from moises_light.config import SOURCES, Config
from moises_light.model import (
    GroupConv,
    attend,
    batch_norm_relu,
    convolve,
    merge_bands,
    split_bands,
    ungrouped,
)
from moises_light.stft import hann_window, istft, stft
from moises_light.weights import from_reference

PARAMETERS = {
    "paper_large": 4_660_592,
    "paper_small": 2_520_592,
    "fullband_large": 4_948_612,
    "fullband_small": 2_824_244,
    "fullband_large_wide": 8_354_908,
    "fullband_small_wide": 4_102_712,
}

TINY = {
    "n_fft": 512,
    "hop_size": 128,
    "win_size": 512,
    "freq_dim": 128,
    "n_bands": 4,
    "G": 8,
    "n_rope": 1,
}


def tiny(**changes: object) -> MoisesLight:
    torch.manual_seed(0)
    return MoisesLight(**{**TINY, **changes})


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with what the reference package gives for the six presets."""
    folder = tmp_path_factory.mktemp("reference")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    got = subprocess.run(
        [*pip, "--dest", str(folder), "moises-light==0.1.0"], capture_output=True, text=True
    )
    if got.returncode:
        if os.environ.get("CI"):
            pytest.fail(f"the reference package could not be fetched: {got.stderr[-500:]}")
        pytest.skip("the reference package moises-light==0.1.0 could not be fetched")
    wheel = next(folder.glob("*.whl"))
    zipfile.ZipFile(wheel).extractall(folder / "wheel")
    script = Path(__file__).with_name("reference_outputs.py")
    subprocess.run(
        [sys.executable, str(script), str(folder / "wheel"), str(folder), *configs], check=True
    )
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("preset", configs)
def test_agrees_with_the_reference(preset: str, reference: Path) -> None:
    data = load_file(reference / f"{preset}.safetensors")
    state = {k.removeprefix("state."): x for k, x in data.items() if k.startswith("state.")}
    model = MoisesLight(**configs[preset])
    model.load_state_dict(from_reference(state))

    def check(kind: str) -> None:
        with torch.no_grad():
            ours, theirs = model(data[f"input.{kind}"]), data[f"output.{kind}"]
        assert ours.shape == theirs.shape
        # the contract: 1e-4 of the peak. Rounding in another order gives about 1e-6 in eval.
        assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max(), kind

    model.eval()
    for key in data:
        if key.startswith("input.") and key != "input.train":
            check(key.removeprefix("input."))
    model.train()
    check("train")
    # the statistics that the batch left behind agree too
    torch.testing.assert_close(model.first_conv.bn.running_var, data["running_var"])


@pytest.mark.parametrize("preset", configs)
def test_parameter_counts(preset: str) -> None:
    model = MoisesLight(**configs[preset])
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[preset]


def test_the_seeds_examples() -> None:
    model = MoisesLight(**configs["paper_small"])
    x = torch.randn(1, 2, 30_000)
    with torch.no_grad():
        assert model(x).shape == (1, 4, 2, 30_000)
        y, aux = model(x, return_auxiliary_outputs=True)
    assert y.shape == (1, 4, 2, 30_000)
    assert aux["masks"].shape[:5] == (1, 4, 2, 2, 2048)
    vocals = MoisesLight(**{**configs["paper_large"], "sources": ["vocals"]})
    with torch.no_grad():
        assert vocals(x).shape == (1, 1, 2, 30_000)
    explicit = MoisesLight(
        sources=["vocals", "drums", "bass", "other"], audio_channels=2, n_fft=6144, hop_size=1024,
        win_size=6144, freq_dim=2048, n_bands=4, G=56, n_enc=3, n_dec=1, n_split_enc=3,
        n_split_dec=1, n_rope=5, bn_factor=4,
    )  # fmt: skip
    assert explicit.config == configs["paper_large"]


@pytest.mark.parametrize("length", [1, 2, 127, 128, 129, 1000, 5000])
def test_any_length(length: int) -> None:
    y = tiny().eval()(torch.randn(2, 2, length))
    assert y.shape == (2, 4, 2, length)
    assert torch.isfinite(y).all()


def test_the_masks_are_what_the_spectrum_is_multiplied_with() -> None:
    model = tiny().eval()
    x = torch.randn(1, 2, 128 * 15)
    with torch.no_grad():
        y, aux = model(x, return_auxiliary_outputs=True)
    masks = aux["masks"]
    padded = torch.nn.functional.pad(x, (0, (masks.shape[-1] - 1) * 128 - x.shape[-1]))
    spectrum = stft(padded, model.window, 128)[..., :128].transpose(-1, -2)
    parts = torch.stack([spectrum.real, spectrum.imag], 2)
    product = parts[:, None] * masks
    masked = torch.complex(product[:, :, :, 0], product[:, :, :, 1]).transpose(-1, -2)
    torch.testing.assert_close(istft(masked, model.window, 128)[..., : x.shape[-1]], y)


def test_equal_masks_give_the_mixture_back() -> None:
    model = tiny(freq_dim=256)
    torch.nn.init.zeros_(model.source_head.weight)
    torch.nn.init.constant_(model.source_head.bias, 0.25)
    x = torch.randn(1, 2, 4000)
    # all bins but the topmost pass, so what is missing is that bin alone
    y = model.eval()(x).sum(1)
    assert (y - x).square().mean() < 0.02 * x.square().mean()


@pytest.mark.parametrize("n_sources", [1, 2, 3, 4, 6])
def test_sources_start_with_equal_shares(n_sources: int) -> None:
    model = tiny(sources=[f"source {i}" for i in range(n_sources)]).train()
    with torch.no_grad():
        _, aux = model(torch.randn(2, 2, 8000), return_auxiliary_outputs=True)
    shares = aux["masks"].mean((0, 2, 3, 4, 5))
    torch.testing.assert_close(
        shares, torch.full((n_sources,), 1 / max(2, n_sources)), rtol=0.3, atol=0
    )


def test_every_transformer_counts() -> None:
    """Each begins with a like share of what leaves the last, though each doubles what passes."""
    torch.manual_seed(0)
    model = MoisesLight(**{**TINY, "n_rope": 4})
    x = torch.randn(16, 24, 4 * TINY["G"])
    gains = model.depth_gains()
    assert sorted(set(gains.values())) == [2.0**number for number in range(8)]
    with torch.no_grad():
        whole = model.bottleneck(x, 1)
        shares = []
        for gain in sorted(set(gains.values())):
            own = [model.get_parameter(name) for name, g in gains.items() if g == gain]
            saved = [p.clone() for p in own]
            for p in own:
                p.zero_()
            shares.append(float((whole - model.bottleneck(x, 1)).norm() / whole.norm()))
            for p, value in zip(own, saved, strict=True):
                p.copy_(value)
    assert min(shares) > 0.05
    assert max(shares) < 3 * min(shares)


def test_examples_of_a_batch_do_not_mix_in_eval() -> None:
    model = tiny().eval()
    x = torch.randn(3, 2, 3000) * torch.tensor([0.01, 1.0, 0.3])[:, None, None]
    one_by_one = torch.cat([model(example[None]) for example in x])
    torch.testing.assert_close(model(x), one_by_one, rtol=1e-4, atol=1e-6)


def test_tiles_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny().eval()
    x = torch.randn(2, 2, 9000)
    whole = model(x)
    monkeypatch.setattr("moises_light.model.TILE", 8)
    torch.testing.assert_close(model(x), whole, rtol=1e-4, atol=1e-6)


def test_every_parameter_gets_a_gradient() -> None:
    model = tiny(n_rope=2).train()
    for name, parameter in model.named_parameters():
        if "to_out" in name:  # zero at the start, which stops the gradient of what comes before it
            torch.nn.init.normal_(parameter, std=0.1)
    y = model(torch.randn(2, 2, 6000))
    (y - torch.randn_like(y)).square().mean().backward()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert name.endswith("freqs")
            continue
        assert parameter.grad is not None, name
        # a bias before a batch norm cannot matter, all others do
        before_norm = name.endswith(("conv.bias", "fc1.bias", "fc2.bias"))
        assert before_norm or parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_convolution_without_groups_stands_for_one_with_them(kernel: int) -> None:
    conv = GroupConv(12, 24, 4, kernel).double()
    x = torch.randn(7, 5, 12, dtype=torch.float64, requires_grad=True)
    assert conv.conv.bias is not None
    arguments = (x, conv.conv.weight, conv.conv.bias)
    in_groups = convolve(*arguments, 4)
    dense = convolve(x, ungrouped(conv.conv.weight, 4), conv.conv.bias, 1)
    theirs = conv.conv(x.permute(2, 0, 1)[None])[0].permute(1, 2, 0)
    torch.testing.assert_close(in_groups, theirs)
    torch.testing.assert_close(dense, in_groups)
    weights = torch.randn_like(dense)
    for one, other in zip(
        torch.autograd.grad((dense * weights).sum(), arguments),
        torch.autograd.grad((in_groups * weights).sum(), arguments),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_folding_the_batch_norms_changes_nothing() -> None:
    """In `eval`, every folded block equals its layers one after another."""
    model = tiny().train()
    for _ in range(3):
        model(torch.randn(2, 2, 4000))
    block = model.eval().encoder_blocks[0].split1[0]
    x = torch.randn(32, 10, 8)
    image = block.conv(x.permute(2, 0, 1)[None])
    plain = block.bn(image).relu()[0].permute(1, 2, 0)
    torch.testing.assert_close(block(x), plain, rtol=1e-4, atol=1e-5)


def test_batch_norm_has_the_gradients_of_torch() -> None:
    ours = torch.nn.BatchNorm2d(6)
    theirs = torch.nn.BatchNorm2d(6)
    torch.nn.init.uniform_(ours.weight, 0.5, 1.5)
    torch.nn.init.normal_(ours.bias)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(5, 7, 6, requires_grad=True)
    z = x.detach().clone().requires_grad_()
    target = torch.randn(5, 7, 6)
    y = batch_norm_relu(x, ours)
    image = z.permute(2, 0, 1)[None].contiguous()
    w = theirs(image)[0].permute(1, 2, 0).relu()
    torch.testing.assert_close(y, w)
    (y * target).sum().backward()
    (w * target).sum().backward()
    torch.testing.assert_close(x.grad, z.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.bias.grad, theirs.bias.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.running_var, theirs.running_var)


@pytest.mark.parametrize("autocast", [False, True])
def test_frozen_batch_norms_use_their_statistics_and_keep_them(autocast: bool) -> None:
    model = tiny(G=4).train()
    x = torch.randn(2, 2, 6000)
    model(x)
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.eval()
    before = {k: b.clone() for k, b in model.state_dict().items() if "running" in k or "num_" in k}
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = model(x)
        y.square().mean().backward()
        after = model.state_dict()
        for key, buffer in before.items():
            assert torch.equal(after[key], buffer), key
        assert all(norm.weight.grad is not None for norm in norms)
        # without autocast only tiles differ, with it also the attention's rounding
        tolerance = 2e-2 if autocast else 1e-5
        torch.testing.assert_close(model.eval()(x), y, rtol=0, atol=tolerance)
        for norm in norms:
            norm.train()
        with torch.no_grad():  # the other way round the batch is whole, too
            torch.testing.assert_close(model(x), model.train()(x), rtol=0, atol=tolerance)


@pytest.mark.parametrize("momentum", [0.0, 0.1, None])
def test_batch_norm_has_the_momentum_of_torch(momentum: float | None) -> None:
    ours, theirs = (torch.nn.BatchNorm2d(6, momentum=momentum) for _ in range(2))
    for _ in range(3):
        x = torch.randn(5, 7, 6)
        batch_norm_relu(x, ours)
        theirs(x.permute(2, 0, 1)[None])
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)


def test_other_batch_norms_are_refused_in_training() -> None:
    model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(tiny())
    with pytest.raises(
        ValueError, match=r"a batch norm is SyncBatchNorm, whose .* keep BatchNorm2d"
    ):
        model.train()(torch.randn(1, 2, 5000))


def test_second_derivatives_are_refused() -> None:
    x = torch.randn(5, 4, 6, 8, requires_grad=True)
    for y in (attend(x, x, x), batch_norm_relu(x, torch.nn.BatchNorm2d(8))):
        (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            gradient.square().sum().backward()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_weights_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=r"keep float32 and use torch\.autocast"):
        tiny().to(dtype)(torch.randn(1, 2, 5000).to(dtype))


def test_bfloat16_moves_the_output_a_little_and_auto_asks_the_processor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny().eval()
    for transformer in model.bottleneck.rope_blocks.parameters():
        torch.nn.init.normal_(transformer, std=0.05)  # a new one's attention adds nothing
    x = torch.randn(1, 2, 8192, generator=torch.Generator().manual_seed(0))
    given = {}
    with torch.inference_mode():
        for precision in ("float32", "bfloat16"):
            given[precision] = model.set_precision(precision)(x)
        for native, precision in ((True, "bfloat16"), (False, "float32")):
            monkeypatch.setattr("moises_light.model.multiplies_bfloat16", lambda: native)  # noqa: B023
            assert torch.equal(model.set_precision("auto")(x), given[precision])
    assert all(y.dtype == torch.float32 for y in given.values())
    error = (given["bfloat16"] - given["float32"]).square().sum()
    assert 0 < error < 1e-3 * given["float32"].square().sum()


def test_precision_is_float32_until_it_is_set_and_names_are_checked() -> None:
    model = tiny()
    assert model.precision == "float32"
    with pytest.raises(ValueError, match="precision='half'; choose one of auto, float32, bfloat16"):
        model.set_precision("half")
    assert model.set_precision("auto") is model


def test_autocast_to_float16_is_refused() -> None:
    model = tiny()
    with torch.autocast("cpu", dtype=torch.float16), pytest.raises(ValueError, match="bfloat16"):
        model(torch.randn(1, 2, 5000))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.isfinite(model(torch.randn(1, 2, 5000))).all()


def test_attention_has_the_gradients_of_torch() -> None:
    ours = [x.requires_grad_() for x in torch.randn(3, 5, 4, 300, 8).unbind()]
    theirs = [x.detach().clone().requires_grad_() for x in ours]
    y = attend(*ours)
    w = torch.nn.functional.scaled_dot_product_attention(*theirs)
    torch.testing.assert_close(y, w)
    target = torch.randn_like(y)
    (y * target).sum().backward()
    (w * target).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(attend(*ours), y)


def test_bands_split_and_merge() -> None:
    x = torch.randn(24, 5, 4)
    assert torch.equal(merge_bands(split_bands(x, 6), 6), x)
    # the first band holds the lowest bins, in the first features
    assert torch.equal(split_bands(x, 6)[:, :, :4], x[:4])


@pytest.mark.parametrize(("win_size", "hop"), [(512, 128), (400, 100), (512, 256)])
def test_stft_agrees_with_torch_and_inverts(win_size: int, hop: int) -> None:
    window = hann_window(win_size, 512)
    x = torch.randn(2, 2, hop * 40)
    ours = stft(x, window, hop)
    theirs = torch.stft(
        x.flatten(0, 1), 512, hop, win_size, torch.hann_window(win_size),
        normalized=True, return_complex=True,
    )  # fmt: skip
    torch.testing.assert_close(ours.flatten(0, 1).transpose(-1, -2), theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(istft(ours, window, hop), x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("mixture", "words"),
    [
        (torch.zeros(1, 1, 100), "shape [1, 1, 100]; this network takes [batch, 2, samples]"),
        (torch.zeros(2, 100), "shape [2, 100]"),
        (torch.zeros(1, 2, 0), "shape [1, 2, 0]"),
        (torch.zeros(0, 2, 10), "shape [0, 2, 10]"),
        (torch.zeros(1, 2, 100, dtype=torch.int16), "torch.int16; give a float tensor"),
        (torch.zeros(1, 2, 100, dtype=torch.float64), "torch.float64, the weights torch.float32"),
        (torch.full((1, 2, 100), float("nan")), "NaN or infinite"),
        (torch.full((1, 2, 100), float("inf")), "NaN or infinite"),
        ([0.0], "the mixture is list"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(mixture: torch.Tensor, words: str) -> None:
    with pytest.raises(ValueError, match="mixture") as error:
        tiny()(mixture)
    assert words in str(error.value)


def test_the_network_can_be_exported() -> None:
    torch.manual_seed(0)
    model, mixture = tiny().eval(), torch.randn(1, 2, 4000)
    exported = torch.export.export(model, (mixture,)).module()
    torch.testing.assert_close(exported(mixture), model(mixture))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"G": 10}, "G=10 is not divisible by n_bands=4; the nearest values that are: 8, 12"),
        ({"freq_dim": 260}, "freq_dim=260 is beyond the spectrum: n_fft=512 has 257 bins"),
        ({"freq_dim": 126}, "freq_dim=126 is not divisible by n_bands=4"),
        ({"n_dec": 4}, "n_dec=4 is more than n_enc=3"),
        ({"n_fft": 511}, "n_fft=511 is odd"),
        ({"win_size": 1024}, "win_size=1024 is longer than n_fft=512"),
        ({"hop_size": 400}, "hop_size=400 is more than half of win_size=512"),
        ({"sources": []}, "sources is empty"),
        ({"sources": 4}, "sources is 4; give a list of names"),
        ({"sources": "vocals"}, "give a list of names"),
        ({"sources": Config()}, "sources is a mapping; a config is given as **config"),
        ({"sources": ["bass", "bass"]}, "names one source twice"),
        ({"n_enc": 0}, "n_enc=0; it must be a whole number >= 1"),
        ({"G": 8.0}, "G=8.0; it must be a whole number >= 1"),
        ({"G": 2**21}, "G=2097152; choose at most 1048576"),
        ({"audio_channels": 65}, "audio_channels=65; choose at most 64"),
        ({"sources": range(65)}, "sources has 65 names; give at most 64"),
        ({"bn_factor": 64}, "bn_factor=64 leaves nothing of 32 bins"),
        ({"dim_head": 5}, "dim_head=5 is odd"),
        ({"bands": 4}, "MoisesLight knows no argument 'bands'; it takes sources"),
    ],
)
def test_impossible_arguments_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=r"\S") as error:
        tiny(**changes)
    assert words in str(error.value)


def test_the_arguments_are_those_of_the_config_and_can_be_seen() -> None:
    parameters = inspect.signature(MoisesLight).parameters
    assert list(parameters)[:-1] == list(Config())
    defaults = {name: parameters[name].default for name in Config()}
    assert defaults == {**Config(), "sources": None}
    assert tiny(sources=None).sources == SOURCES
    small = {k: v for k, v in tiny().config.items() if k != "sources"}
    assert MoisesLight(["vocals"], **small).sources == ("vocals",)


def test_a_config_is_a_mapping() -> None:
    config = Config()
    assert (len(config), config.get("G"), config.get("bands")) == (18, 56, None)
    assert dict(config) == dict(config.items())
    assert "n_fft" in config
    assert config in {config}
    with pytest.raises(KeyError):
        config["n_bins"]  # a property, no argument


def test_silence_stays_silent() -> None:
    assert tiny().eval()(torch.zeros(1, 2, 5000)).abs().max() == 0


def test_positions_beyond_training_lengths_are_no_trouble() -> None:
    y = tiny().eval()(torch.randn(1, 2, 128 * 800))
    assert torch.isfinite(y).all()
