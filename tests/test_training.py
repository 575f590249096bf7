"""The training loop, its losses and the evaluation, on a network and a corpus of toy size."""

from __future__ import annotations

import argparse
import copy
import inspect
import io
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch

from bench import corpus as corpus_numbers
from bench import step
from moises_light import MoisesLight, cli, configs, weights
from moises_light.config import SOURCES, Config
from moises_light.separation import Separator
from moises_light.training import average, evaluate, loop, mixing, prune, release
from moises_light.training import cli as training_cli
from moises_light.training.config import TrainConfig
from moises_light.training.corpus import licences_of, write_licences, write_track
from moises_light.training.losses import (
    Objective,
    band_energies,
    loss_bands,
    mae_loss,
    narrow,
    presence,
    snr_loss,
)

TINY = {"n_fft": 512, "hop_size": 128, "win_size": 512, "freq_dim": 128, "G": 8, "n_rope": 1}


class Tones:
    """Stands in for `MixtureDataset`: a tone in a band of its own for every source."""

    corpus = SimpleNamespace(
        folder=Path("corpus/train"), tracks=[SimpleNamespace(rows=("backing",))]
    )

    def __init__(self, length: int, seed: int = 0):
        self.length, self.seed = length, seed

    def draw(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng([self.seed, index])
        time = np.arange(self.length) / 44100
        rows = [
            rng.uniform(0.1, 0.4)
            * np.sin(2 * np.pi * f * rng.uniform(1, 1.3) * time + rng.random())
            for f in (500, 5000, 120, 1500)
        ]
        sources = torch.tensor(np.stack(rows), dtype=torch.float32)[:, None].repeat(1, 2, 1)
        return sources.sum(0), sources

    def rescan(self) -> int:
        return 0


@pytest.fixture
def tiny_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the presets' network small wherever the loop asks for it."""
    small = replace(Config(), **TINY)
    for module in ("moises_light.training.loop", "moises_light.training.config"):
        monkeypatch.setattr(f"{module}.get_config", lambda name: small)
    monkeypatch.setattr("moises_light.weights.get_config", lambda name: small)
    monkeypatch.setattr("moises_light.weights.configs", {"paper_small": small})
    monkeypatch.setattr("moises_light.training.loop.CALIBRATION_BATCHES", 2)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[mixing.MixingConfig]:
    """Let commands draw `Tones` instead of a corpus; how they ask for them to be mixed."""
    asked = []

    def draw(
        folder: Path, split: str, length: int, seed: int, config: mixing.MixingConfig
    ) -> Tones:
        asked.append(config)
        return Tones(length, seed)

    monkeypatch.setattr(mixing, "MixtureDataset", draw)
    return asked


class Stop(Exception):
    """Ends a run half way."""


def run(config: TrainConfig, folder: Path, **options: object) -> Path:
    dataset = Tones(config.segment_length, config.seed)
    return loop.train(config, dataset, folder, workers=0, rescan=False, **options)  # type: ignore[arg-type]


def test_the_loss_goes_where_the_network_is() -> None:
    model = MoisesLight(**TINY).to("meta")
    objective = loop.objective_of(model, TrainConfig())
    assert {buffer.device.type for buffer in objective.buffers()} == {"meta"}


def test_snr_loss_is_the_negative_ratio() -> None:
    target = torch.full((3, 2, 1), 1.0)
    mixture = torch.full((3, 1, 1), 2.0)
    # the floor is 0.002 of a source: 10 log10((0.01 + 0.002) / (1 + 0.002)) = -19.2 dB
    tenth = snr_loss(0.01 * target, target, mixture, floor=1e-3)
    torch.testing.assert_close(tenth, torch.full((3, 2, 1), -19.2), atol=0.05, rtol=0)
    torch.testing.assert_close(snr_loss(target, target, mixture), torch.zeros(3, 2, 1))
    nothing = torch.zeros(3, 2, 1)
    torch.testing.assert_close(snr_loss(nothing, nothing, mixture), nothing)


def test_presence_tells_absent_sources() -> None:
    target = torch.tensor([1.0, 1e-4, 0.0])[None, :, None]
    there = presence(target, target.sum(1, keepdim=True))[0, :, 0]
    assert there[0] == 1
    assert 0 < there[1] < 0.02  # 40 dB below the mixture
    assert there[2] == 0


def test_bands_split_the_energy() -> None:
    bands = loss_bands(2048, 44100 / 6144)
    assert bands.sum(1).eq(1).all()
    # up to 250, 800, 2000, 4000, 8000 Hz and the rest, at 7.18 Hz a bin
    assert bands.sum(0).tolist() == [35, 77, 167, 279, 557, 933]
    x = torch.randn(1, 2, 1, 4, 2048, 2)
    energies = band_energies(x, bands)
    torch.testing.assert_close(energies[..., 0], x[..., :35, :].square().sum((2, 3, 4, 5)))
    torch.testing.assert_close(energies.sum(-1), x.square().sum((2, 3, 4, 5)))


class Sharp(MoisesLight):
    """A network that knows the answer up to some frequency, and is silent above."""

    truth: torch.Tensor

    def estimate_masks(self, spectrum: torch.Tensor) -> torch.Tensor:
        return self.truth


def test_highs_count_in_the_band_loss_alone() -> None:
    """A source whose energy above 4 kHz is 1/10000: missing it costs `bands` two of six bands."""
    torch.manual_seed(0)
    model = Sharp(**{**TINY, "n_fft": 256, "win_size": 256, "freq_dim": 128})
    dull = torch.randn(1, 1, 2, 128 * 64)
    spectrum = torch.fft.rfft(dull)
    spectrum[..., spectrum.shape[-1] * 4000 // 22050 :] *= 0.01
    source = torch.fft.irfft(spectrum)
    sources = torch.cat([source, torch.zeros(1, 3, 2, 128 * 64)], 1)
    low = torch.arange(128) < 4000 / (44100 / 256)
    losses = {}
    for name, known in {"all": torch.ones(128), "low": low.float()}.items():
        model.truth = torch.zeros(1, 4, 1, 1, 128, 2)
        # one mask for the real part, one for the imaginary
        model.truth[:, 0] = known[:, None]
        for loss in ("snr", "bands"):
            objective = Objective(model, loss, bf16=False)
            losses[name, loss] = float(objective(source[:, 0], sources)[0, 0])
    assert losses["all", "snr"] == pytest.approx(-17.1, abs=0.2)
    assert losses["low", "snr"] - losses["all", "snr"] < 1
    assert losses["low", "bands"] - losses["all", "bands"] > 2


@pytest.mark.parametrize("chosen", [(0,), (0, 3)])
def test_highs_of_some_sources_may_count_more(chosen: tuple[int, ...]) -> None:
    """An error above 2 kHz in these weighs more; below, and in other sources, it does not."""
    torch.manual_seed(0)
    model = MoisesLight(**{**TINY, "freq_dim": 256})
    energy = torch.rand(1, 4, 6) + 0.5
    mixture = energy.sum(1, keepdim=True)
    kept = torch.arange(6) < 3
    rest = [s for s in range(4) if s not in chosen]
    names = [SOURCES[s] for s in chosen]
    plain, highs = (Objective(model, "bands", False, 1.0, x, names) for x in (1.0, 3.0))
    for error in (energy.where(kept, 0.0), energy.where(~kept, 0.0)):
        before = plain.weighted(error, energy, mixture, plain.band_weights)
        after = highs.weighted(error, energy, mixture, highs.band_weights)
        single = snr_loss(error, energy, mixture)[:, chosen, 3:].sum(-1) / 6
        torch.testing.assert_close(after[:, chosen] - before[:, chosen], 2 * single)
        torch.testing.assert_close(after[:, rest], before[:, rest])
    with torch.no_grad():
        x, sources = (t[None] for t in Tones(128 * 63).draw(0))
        assert (plain(x, sources)[0, chosen] != highs(x, sources)[0, chosen]).all()
        assert torch.equal(plain(x, sources)[0, rest], highs(x, sources)[0, rest])


def test_mae_loss_is_zero_only_at_the_target() -> None:
    target = torch.randn(1, 2, 2, 8192)
    assert mae_loss(target, target).abs().max() == 0
    near, far = mae_loss(1.1 * target, target), mae_loss(1.5 * target, target)
    torch.testing.assert_close(5 * near, far, rtol=1e-4, atol=0)


@pytest.mark.parametrize("loss", ["snr", "bands", "mae"])
def test_all_losses_move_every_weight(loss: str) -> None:
    torch.manual_seed(0)
    model = MoisesLight(**TINY).train()
    mixture, sources = Tones(128 * 63).draw(0)
    Objective(model, loss, bf16=False)(mixture[None], sources[None]).mean().backward()
    assert model.source_head.weight.grad is not None
    assert model.source_head.weight.grad.abs().max() > 0


@pytest.mark.parametrize("loss", ["snr", "bands", "mae"])
def test_sources_that_are_not_known_apart_count_by_their_sum(loss: str) -> None:
    """How the rest is shared out costs nothing; what goes to or comes from the vocals does."""
    torch.manual_seed(0)
    model = Sharp(**{**TINY, "n_fft": 256, "win_size": 256, "freq_dim": 128})
    objective = Objective(model, loss, bf16=False)
    vocals, rest = torch.randn(2, 1, 2, 128 * 64)
    nothing = torch.full((1, 3, *vocals.shape[1:]), torch.nan)
    sources = torch.cat([vocals[:, None], nothing], 1)

    def losses(*shares: float) -> torch.Tensor:
        truth = torch.zeros(1, 4, 1, 1, 128, 2)
        truth[0, :, 0, 0] = torch.tensor(shares)[:, None, None]
        model.truth = truth
        return objective(vocals + rest, sources)[0]

    even, uneven = losses(0.4, 0.2, 0.2, 0.2), losses(0.4, 0.6, -0.1, 0.1)
    torch.testing.assert_close(even, uneven, rtol=1e-4, atol=1e-5)
    assert even.isfinite().all()
    assert even[1] == even[2] == even[3]
    # the sum counts once, as the same two sources do where both are known apart
    model.truth = torch.zeros(1, 4, 1, 1, 128, 2)
    model.truth[0, 0], model.truth[0, 1] = 0.4, 0.6
    apart = objective(vocals + rest, torch.stack([vocals, rest, 0 * rest, 0 * rest], 1))[0]
    torch.testing.assert_close(even[1:].sum(), apart[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(even[0], apart[0], rtol=1e-4, atol=1e-5)
    # the rest itself as the only source, silence for the vocals: worse for both by what is lost
    assert (losses(0.0, 0.2, 0.2, 0.2) > even).tolist() == [True, False, False, False]
    assert (losses(0.4, 0.2, 0.0, 0.0) > even).tolist() == [False, True, True, True]


def test_a_network_of_some_sources_learns_no_sum_that_it_cannot_tell() -> None:
    torch.manual_seed(0)
    model = MoisesLight(**{**TINY, "freq_dim": 256, "sources": ["vocals", "drums"]})
    mixture, sources = (t[None] for t in Tones(128 * 63).draw(0))
    unknown = sources.clone()
    unknown[:, 1:] = torch.nan
    losses, known = (
        Objective(model, "bands", bf16=False)(mixture, x[:, :2]) for x in (unknown, sources)
    )
    assert losses[0, 0] == known[0, 0]
    assert losses[0, 1] == 0 != known[0, 1]


def test_backings_are_learnt_from(tmp_path: Path) -> None:
    """Gradients of a batch in which one example has a backing are finite and reach every head."""
    torch.manual_seed(0)
    model = MoisesLight(**{**TINY, "freq_dim": 256}).train()
    mixture, sources = (t[None].repeat_interleave(2, 0) for t in Tones(128 * 63).draw(0))
    sources[0, 1:] = torch.nan
    Objective(model, "bands", bf16=False)(mixture, sources).mean().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(g.isfinite().all() for g in gradients)
    assert all(row.abs().max() > 0 for row in model.source_head.weight.grad)


@pytest.mark.parametrize("loss", ["snr", "bands"])
def test_a_teachers_estimates_are_targets(loss: str) -> None:
    """The loss ends where they are met, and they have the share of it that was asked for."""
    torch.manual_seed(0)
    sizes = {**TINY, "freq_dim": 256}
    teacher, model = MoisesLight(**sizes), MoisesLight(**{**sizes, "G": 4})
    twin = copy.deepcopy(teacher).eval()
    sources = Tones(128 * 63).draw(0)[1][None]
    sources = sources + 0.1 * torch.randn(sources.shape)  # no frequency without all of them
    mixture = sources.sum(1)
    with torch.no_grad():
        # the teacher's own twin makes no error at all
        met = Objective(twin, loss, False, teacher=teacher, teaching=1.0)
        taught = met.taught(mixture)
        mixed = met.spectrum(mixture)
        floor = met.distance(taught, taught, mixed)
        torch.testing.assert_close(met(mixture, sources), floor, rtol=1e-4, atol=1e-4)
        other = Objective(model, loss, False, teacher=teacher, teaching=1.0)
        assert (other(mixture, sources) > floor + 0.01).all()
        # what the sources are does not matter then; else both count by their shares
        torch.testing.assert_close(other(mixture, sources), other(mixture, 0.3 * sources))
        alone = Objective(model, loss, False)(mixture, sources)
        shared = Objective(model, loss, False, teacher=teacher, teaching=0.25)(mixture, sources)
        torch.testing.assert_close(shared, 0.75 * alone + 0.25 * other(mixture, sources))


def test_a_teacher_does_not_fill_what_is_empty() -> None:
    """Where a source has nothing at a frequency, what the teacher gives is not asked for."""
    x = torch.randn(2, 2, 2, 5, 8, 2)
    target = x.clone()
    target[0, 1, ..., 6:, :] = 0
    mixture = target.sum(1) + 0.01
    corrected = Objective.corrected(x, target, mixture)
    assert torch.equal(corrected[0, 1, ..., 6:, :], target[0, 1, ..., 6:, :])
    corrected[0, 1, ..., 6:, :] = x[0, 1, ..., 6:, :]
    assert torch.equal(corrected, x)
    # a rest is no such place
    target[1, 0, :, :4] = 0
    assert torch.equal(Objective.corrected(x, target, mixture)[1], x[1])


def test_a_teacher_tells_apart_what_is_known_as_a_sum_and_learns_nothing() -> None:
    torch.manual_seed(0)
    sizes = {**TINY, "freq_dim": 256}
    teacher, model = MoisesLight(**sizes), MoisesLight(**sizes).train()
    before = copy.deepcopy(teacher.state_dict())
    mixture, sources = (t[None] for t in Tones(128 * 63).draw(0))
    sources[0, 1:] = torch.nan
    losses = Objective(model, "bands", False, teacher=teacher)(mixture, sources)[0]
    assert losses.isfinite().all()
    assert len(set(losses[1:].tolist())) == 3
    losses.mean().backward()
    assert all(row.abs().max() > 0 for row in model.source_head.weight.grad)
    assert all(p.grad is None for p in teacher.parameters())
    assert not any(m.training for m in teacher.modules())
    after = teacher.state_dict()
    assert all(torch.equal(after[key], x) for key, x in before.items())


def test_narrow_examples_are_asked_for_as_narrow_and_the_teacher_hears_them_wide() -> None:
    torch.manual_seed(0)
    sizes = {**TINY, "freq_dim": 256}
    teacher, model = MoisesLight(**sizes), MoisesLight(**sizes)
    sources = Tones(128 * 63).draw(0)[1][None]
    sources = sources + 0.1 * torch.randn(sources.shape)  # no frequency without all of them
    mixture = sources.sum(1)
    widths = torch.tensor([[0.0, 1.0, 1.0, 1.0, 1.0]])
    centred = sources.clone()
    centred[:, 0] = sources[:, 0].mean(1, keepdim=True)
    plain = Objective(model, "bands", False)
    torch.testing.assert_close(
        plain(mixture, sources, widths), plain(mixture + (centred - sources).sum(1), centred)
    )
    # also of what is known as a sum alone
    unknown, whole = sources.clone(), torch.full((1, 5), 0.5)
    unknown[0, 1:] = torch.nan
    half = narrow(torch.cat([mixture[:, None], unknown], 1), whole)
    torch.testing.assert_close(
        plain(mixture, unknown, whole), plain(half[:, 0], half[:, 1:]), rtol=1e-4, atol=1e-4
    )
    # what a codec took of the voice's sides does not stay behind when they go
    coded = mixture + 0.1 * (sources[:, 0].flip(1) - sources[:, 0])
    middle = coded - sources.sum(1)
    middle = centred.sum(1) + middle.mean(1, keepdim=True)
    torch.testing.assert_close(plain(coded, sources, widths), plain(middle, centred))
    taught = Objective(model, "bands", False, teacher=teacher, teaching=1.0)
    given = narrow(taught.taught(mixture), widths[:, :-1])
    heard = taught.spectrum(mixture + (centred - sources).sum(1))
    with torch.no_grad():
        estimate = model.estimate_masks(heard) * heard[:, None]
        expected = taught.distance(estimate, given, heard)
        torch.testing.assert_close(taught(mixture, sources, widths), expected)


def test_widths_hang_on_the_example_alone() -> None:
    config = TrainConfig(narrow=0.5, seed=3, batch_size=8, accumulate=2)
    drawn = [config.widths(number, ("drums", "vocals")) for number in range(1000)]
    assert config.widths(7, ("drums", "vocals")) == drawn[7]
    plain = [w for w in drawn if w == [1.0, 1.0, 1.0]]
    whole = [w for w in drawn if w[0] == w[1] == w[2] < 1]
    voice = [w for w in drawn if w[0] == w[2] == 1 > w[1]]
    assert len(plain) + len(whole) + len(voice) == 1000
    assert 450 < len(plain) < 550
    assert 150 < len(whole) < 250
    assert 0.4 < sum(w[1] == 0 for w in whole + voice) / 500 < 0.6
    assert all(w == [1.0] * 3 for w in (TrainConfig().widths(n, SOURCES[:2]) for n in range(50)))
    numbers = [
        number
        for part in range(2)
        for rank in range(2)
        for number in loop.example_numbers(config, 3, part, rank, 2)
    ]
    assert sorted(numbers) == list(range(24, 32))
    for rank in range(2):
        drawn_by = iter(loop.Indices(config, 3, rank, 2))
        for part in range(2):
            asked = loop.example_numbers(config, 3, part, rank, 2)
            assert [next(drawn_by) for _ in asked] == list(asked)


def test_a_teacher_of_another_range_teaches_what_both_have() -> None:
    torch.manual_seed(0)
    narrow, wide = (
        MoisesLight(**{**TINY, "freq_dim": bins, "n_bands": bins // 32}) for bins in (128, 256)
    )
    mixture, sources = (t[None] for t in Tones(128 * 63).draw(0))
    for teacher, model in ((narrow, wide), (wide, narrow)):
        wise, model = copy.deepcopy(teacher), model.train()
        objective = Objective(model, "bands", False, teacher=wise, teaching=1.0)
        assert objective.taught(mixture).shape[-2] == 128
        objective(mixture, sources).mean().backward()
        assert model.final_conv.conv.weight.grad is not None
        moved = model.final_conv.conv.weight.grad.flatten(1).abs().amax(1) > 0
        by_band = moved.unflatten(0, (model.config.n_bands, -1)).any(1)
        assert by_band.tolist() == [True] * 4 + [False] * (model.config.n_bands - 4)
    fewer = MoisesLight(**{**TINY, "sources": ["other", "vocals"]})
    objective = Objective(fewer, "bands", False, teacher=MoisesLight(**TINY))
    assert objective.teacher is not None
    whole = objective.teacher.estimate_masks(objective.spectrum(mixture))
    expected = whole[:, [3, 0]] * objective.spectrum(mixture)[:, None]
    torch.testing.assert_close(objective.taught(mixture), expected)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"hop_size": 64}, "the teacher hears hop_size=64 against 128; take one of the same"),
        ({"sources": ["vocals"]}, "the teacher separates vocals and cannot teach drums, bass, oth"),
    ],
)
def test_a_teacher_of_another_kind_is_refused(values: dict[str, object], words: str) -> None:
    teacher = MoisesLight(**{**TINY, **values})
    with pytest.raises(ValueError, match=words):
        Objective(MoisesLight(**TINY), "bands", False, teacher=teacher)


@pytest.mark.usefixtures("tiny_preset")
def test_a_taught_run_nears_its_teacher_and_its_card_names_it(tmp_path: Path) -> None:
    torch.manual_seed(1)
    teacher = MoisesLight(**TINY)
    torch.nn.init.normal_(teacher.source_head.bias)  # what it gives is not what any start gives
    path = tmp_path / "wise.safetensors"
    weights.save(teacher, path, {})
    config = TrainConfig(
        frames=64, batch_size=2, steps=30, warmup=1, lr=1e-2, ema=0.5, bf16=False,
        teacher=str(path), teaching=1.0,
    )  # fmt: skip
    rows: list[dict[str, float]] = []
    model = run(config, tmp_path / "run", log_steps=5, on_log=rows.append)
    assert rows[-1]["loss"] < rows[0]["loss"] - 1
    assert weights.load(model).state_dict.keys() == teacher.state_dict().keys()
    text = release.card_text("paper_small", {**SCORED, **weights.load(model).metadata["card"]})
    assert "(absent sources weigh 0.1), 1 of it against the estimates of `wise`, AdamW" in text


def test_spectral_error_is_the_errors_energy() -> None:
    """Parseval: the loss needs no inverse STFT, its energies are those of the waveform."""
    objective = Objective(MoisesLight(**{**TINY, "freq_dim": 256}), "snr", bf16=False)
    x = torch.randn(1, 2, 128 * 200)
    energy = objective.spectrum(x).square().sum()
    # a bin stands for itself and its mirror image; four frames cover a sample with a sum of 1.5
    assert abs(2 * energy / (1.5 * x.square().sum()) - 1) < 0.05


@pytest.mark.usefixtures("tiny_preset")
@pytest.mark.parametrize("features", [8, 4], ids=["same", "smaller"])
def test_starts_from_weights(tmp_path: Path, features: int) -> None:
    start = MoisesLight(**{**TINY, "G": features})
    path = tmp_path / "start.safetensors"
    weights.save(start, path, {})
    config = TrainConfig(steps=1, batch_size=2, bf16=False, lr=1e-9, start=str(path))
    trained = weights.load(run(config, tmp_path / "run")).state_dict
    for name in ("source_head.weight", "encoder_blocks.0.tdf.fc1.weight"):
        torch.testing.assert_close(trained[name], start.state_dict()[name], atol=1e-3, rtol=1e-3)


@pytest.mark.usefixtures("tiny_preset")
@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_norms_keep_the_statistics_of_the_start(tmp_path: Path, frozen: bool) -> None:
    start = MoisesLight(**TINY)
    for name, x in start.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            x.uniform_(0.5, 2.0)
    path = tmp_path / "start.safetensors"
    weights.save(start, path, {})
    config = TrainConfig(
        frames=16, batch_size=2, steps=3, bf16=False, start=str(path), frozen_norms=frozen
    )
    read = weights.load(run(config, tmp_path / "run"))
    kept = {k: x for k, x in start.state_dict().items() if "running" in k}
    assert kept
    for key, x in kept.items():
        assert torch.equal(read.state_dict[key], x) == frozen, key
    moved = [k for k, p in start.named_parameters() if not torch.equal(read.state_dict[k], p)]
    assert any("tdf.fc" in key for key in moved)
    text = release.card_text("paper_small", {**SCORED, **read.metadata["card"]})
    assert ("batch norms frozen" in text) == frozen


@pytest.mark.usefixtures("tiny_preset")
def test_the_gradient_of_sources_in_focus_counts_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradients: list[torch.Tensor] = []
    clip = torch.nn.utils.clip_grad_norm_

    def spy(parameters: Iterable[torch.nn.Parameter], most: float) -> torch.Tensor:
        kept = list(parameters)
        gradients.append(torch.cat([p.grad.flatten() for p in kept if p.grad is not None]))
        return clip(kept, most)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spy)
    config = TrainConfig(frames=16, batch_size=2, steps=1, bf16=False)
    for name, focus, focus_of in (
        ("plain", 1.0, ("bass",)),
        ("bass", 3.0, ("bass",)),
        ("others", 3.0, ("vocals", "drums", "other")),
        ("all", 3.0, SOURCES),
    ):
        run(replace(config, focus=focus, focus_of=focus_of), tmp_path / name)
    plain, bass, others, everything = gradients
    size = plain.norm()
    assert (everything - 3 * plain).norm() < 1e-4 * size
    # what bass adds and what the others add is what all of them add
    assert (bass + others - 4 * plain).norm() < 1e-4 * size
    assert (bass - plain).norm() > 0.01 * size
    assert (others - plain).norm() > 0.01 * size


def test_the_average_of_a_continued_run_is_as_long_as_told() -> None:
    """A run from nothing forgets its first steps sooner."""
    averages = {}
    for fresh in (True, False):
        update = loop._moving_average(0.99, fresh)
        average = [torch.ones(1)]
        for count in range(1, 21):
            update(average, [torch.zeros(1)], count)
        averages[fresh] = average[0].item()
    assert averages[False] == pytest.approx(0.99**20)
    assert averages[True] < 0.01


def test_later_transformers_move_in_steps_of_their_size() -> None:
    """Learning rate times the gain; what decays a step is the same share of every weight."""
    torch.manual_seed(0)
    model = MoisesLight(**{**TINY, "n_rope": 2})
    gains = model.depth_gains()
    groups = loop._groups(model, weight_decay=0.1)
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    for group in optimizer.param_groups:
        group["lr"] *= group["gain"]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for name, p in model.named_parameters():
        if p.requires_grad:
            # gradients shrink as the gains grow
            p.grad = torch.full_like(p, 1e-7 / gains.get(name, 1.0))
    optimizer.step()
    for name, p in model.named_parameters():
        if p.requires_grad:
            decay = 1e-4 if p.ndim > 1 else 0.0
            moved = (before[name] * (1 - decay) - p.detach()) / gains.get(name, 1.0)
            torch.testing.assert_close(
                moved, torch.full_like(p, 1e-3 / 1.1), rtol=1e-2, atol=1e-6, msg=name
            )
    assert len([p for g in groups for p in g["params"]]) == len(
        [p for p in model.parameters() if p.requires_grad]
    )


@pytest.mark.usefixtures("tiny_preset")
def test_learns_to_tell_bands_apart(tmp_path: Path) -> None:
    rows: list[dict[str, float]] = []
    config = TrainConfig(frames=32, batch_size=4, steps=100, lr=1e-2, warmup=5, ema=0.9, bf16=False)
    path = run(config, tmp_path, on_log=rows.append, log_steps=20)
    assert rows[-1]["loss"] < rows[0]["loss"] - 3
    model = weights.load_pretrained(path)
    mixture, sources = Tones(config.segment_length).draw(999)
    with torch.no_grad():
        estimate = model(mixture[None])[0]
    from moises_light.metrics import sdr

    assert sdr(sources, estimate).mean() > 3  # 0 dB is silence


@pytest.mark.usefixtures("tiny_preset")
def test_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    start = tmp_path / "start.safetensors"
    weights.save(MoisesLight(**TINY), start, {})
    config = TrainConfig(frames=16, batch_size=2, steps=6, warmup=2, bf16=False, start=str(start))

    def stop(row: dict[str, float]) -> None:
        if row["step"] == 3:
            raise Stop

    whole = run(config, tmp_path / "whole", log_steps=1)
    with pytest.raises(Stop):
        run(config, tmp_path / "parts", log_steps=1, on_log=stop)
    start.unlink()  # a run that has begun needs no start
    parts = run(config, tmp_path / "parts", log_steps=1)
    ours, theirs = weights.read_tensors(whole)[0], weights.read_tensors(parts)[0]
    for key, value in ours.items():
        assert torch.equal(value, theirs[key]), key
    steps = [json.loads(line)["step"] for line in (tmp_path / "parts/log.jsonl").open()]
    assert steps == [1, 2, 3, 4, 5, 6]


@pytest.mark.usefixtures("tiny_preset")
def test_a_run_that_fails_in_its_first_step_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    config = TrainConfig(frames=16, batch_size=2, steps=1, bf16=False)
    with monkeypatch.context() as patch:
        patch.setattr(Objective, "forward", fail)
        with pytest.raises(torch.OutOfMemoryError):
            run(config, tmp_path)
    assert os.listdir(tmp_path) == ["config.json"]
    assert run(replace(config, accumulate=2), tmp_path).is_file()


@pytest.mark.usefixtures("tiny_preset")
def test_a_step_is_saved_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C between the optimizer and the average waits for the end of the step."""
    config = TrainConfig(frames=16, batch_size=2, steps=3, warmup=1, bf16=False)
    whole = weights.read_tensors(run(config, tmp_path / "whole"))[0]
    update, calls = loop.AveragedModel.update_parameters, []

    def interrupted(average: torch.optim.swa_utils.AveragedModel, model: MoisesLight) -> None:
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        update(average, model)

    monkeypatch.setattr(loop.AveragedModel, "update_parameters", interrupted)
    # tests that run in the background of a shell are deaf to it
    before, handler = signal.getsignal(signal.SIGINT), signal.default_int_handler
    signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "parts")
        assert signal.getsignal(signal.SIGINT) == handler
    finally:
        signal.signal(signal.SIGINT, before)
    tensors, header = weights.read_tensors(tmp_path / "parts" / "state.safetensors")
    assert header["step"] == "2"
    assert tensors["optimizer.0.step"] == tensors["average.n_averaged"] == 2
    parts = weights.read_tensors(run(config, tmp_path / "parts"))[0]
    assert all(torch.equal(x, parts[key]) for key, x in whole.items())


@pytest.mark.skipif(os.name != "posix", reason="needs locks of files")
@pytest.mark.usefixtures("tiny_preset")
def test_a_folder_has_one_run_at_a_time(tmp_path: Path) -> None:
    config = TrainConfig(frames=16, batch_size=2, steps=1, bf16=False)

    def second(row: dict[str, float]) -> None:
        run(replace(config, steps=2), tmp_path)

    with pytest.raises(ValueError, match="holds a run that is going on; wait for its end or cho"):
        run(config, tmp_path, log_steps=1, on_log=second)
    run(replace(config, steps=2), tmp_path)
    assert weights.read_tensors(tmp_path / "state.safetensors")[1]["step"] == "2"


@pytest.mark.usefixtures("tiny_preset")
def test_half_a_line_of_the_log_stays_apart(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1}\n{"ste')
    run(TrainConfig(frames=16, batch_size=2, steps=2, bf16=False), tmp_path, log_steps=1)
    lines = log.read_text().splitlines()
    assert lines[:2] == ['{"step": 1}', '{"ste']
    assert [json.loads(line)["step"] for line in lines[2:]] == [1, 2]


@pytest.mark.usefixtures("tiny_preset")
def test_backings_are_refused_where_there_are_none(tmp_path: Path) -> None:
    """The usual share is of those that there are; a run that has begun goes on."""
    config = TrainConfig(frames=16, batch_size=2, steps=1, bf16=False)
    dataset: Any = Tones(config.segment_length)
    dataset.corpus = SimpleNamespace(
        folder=Path("here/train"), tracks=[SimpleNamespace(rows=SOURCES)]
    )

    def train(config: TrainConfig, name: str) -> Path:
        return loop.train(config, dataset, tmp_path / name, workers=0, rescan=False)

    told = r"backings=1, and the corpus at here.train has none; .*build here --backings"
    with pytest.raises(ValueError, match=told):
        train(replace(config, backings=1.0), "new")
    assert not (tmp_path / "new").exists()
    assert train(config, "usual").is_file()
    assert train(replace(config, backings=0.0), "none").is_file()
    run(replace(config, backings=1.0), tmp_path / "begun")
    assert train(replace(config, backings=1.0, steps=2), "begun").is_file()


@pytest.mark.usefixtures("tiny_preset")
def test_a_run_goes_on_with_another_limit(tmp_path: Path) -> None:
    """Its schedule bends to it; states of old runs say `steps=100000`, once the default."""
    config = TrainConfig(frames=16, batch_size=2, steps=1, bf16=False)
    run(config, tmp_path)
    tensors, header = weights.read_tensors(tmp_path / "state.safetensors")
    header["config"] = replace(config, steps=100_000).to_json()
    weights.write_tensors(tmp_path / "state.safetensors", tensors, header)
    path = run(replace(config, steps=0, minutes=1e-9), tmp_path)  # spent already
    assert weights.load(path).metadata["card"]["steps"] == 1


@pytest.mark.usefixtures("tiny_preset")
def test_a_run_that_was_stopped_gives_weights(
    tmp_path: Path,
    drawn: list[mixing.MixingConfig],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop(row: dict[str, float]) -> None:
        if row["step"] == 2:
            raise Stop

    monkeypatch.setattr(torch, "set_flush_denormal", lambda on: True)  # it would stay on
    config = TrainConfig(
        frames=16, batch_size=2, steps=3, bf16=False, seed=7, songs=0.5, backings=0.5
    )
    with pytest.raises(Stop):
        run(config, tmp_path, log_steps=1, on_log=stop, commit="abc")
    before = (tmp_path / "state.safetensors").read_bytes()
    command = ["train", "--export", "--folder", str(tmp_path)]
    assert cli.main(command) == 0
    assert drawn == [mixing.MixingConfig.weighted(0.5, 0.5)]
    model = tmp_path / "model.safetensors"
    assert capsys.readouterr().out == f"{model}\n"
    card = weights.load(model).metadata["card"]
    assert (card["steps"], card["seed"], card["commit"]) == (2, 7, "abc")
    assert (tmp_path / "state.safetensors").read_bytes() == before
    assert weights.load_pretrained(model)(torch.zeros(1, 2, 4096)).shape == (1, 4, 2, 4096)
    # at the end of a run, what is written is the same
    run(config, tmp_path, commit="abc")
    at_the_end = weights.load(model)
    model.unlink()
    read, reads = weights.read_tensors, []
    monkeypatch.setattr(weights, "read_tensors", lambda path: (reads.append(path), read(path))[1])
    assert loop.export(tmp_path, Tones(config.segment_length, 7)) == model  # type: ignore[arg-type]
    assert reads == [tmp_path / "state.safetensors"]  # once, for it is large
    again = weights.load(model)
    assert again.metadata == at_the_end.metadata
    for key, value in at_the_end.state_dict.items():
        assert torch.equal(again.state_dict[key], value), key
    assert cli.main([*command[:-1], str(tmp_path / "nowhere")]) == 2
    assert "nowhere holds no state.safetensors; give the folder of a run" in capsys.readouterr().err


@pytest.mark.usefixtures("tiny_preset")
def test_a_card_tells_the_device_of_the_run_not_of_its_export(tmp_path: Path) -> None:
    config = TrainConfig(frames=16, batch_size=2, steps=1, bf16=False)
    run(config, tmp_path)
    state, dataset = tmp_path / "state.safetensors", Tones(config.segment_length)
    tensors, header = weights.read_tensors(state)
    assert header.pop("device") == "cpu"
    for told, expected in (({"device": "NVIDIA H200"}, "NVIDIA H200"), ({}, "cpu")):
        weights.write_tensors(state, tensors, {**header, **told})  # older states tell none
        model = loop.export(tmp_path, dataset)  # type: ignore[arg-type]
        assert weights.load(model).metadata["card"]["device"] == expected


@pytest.mark.skipif(os.name != "posix", reason="needs kill")
@pytest.mark.usefixtures("tiny_preset")
def test_workers_that_are_told_to_end_too_cost_no_state(tmp_path: Path) -> None:
    """As `timeout` and service managers do, who tell all processes of a run."""

    def end(row: dict[str, float]) -> None:
        for worker in multiprocessing.active_children():
            # told by the run itself, a worker of PyTorch ends well anyway
            subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)
            worker.join(60)
            assert worker.exitcode == 0
        raise KeyboardInterrupt

    config = TrainConfig(frames=16, batch_size=2, steps=3, bf16=False)
    dataset: Any = Tones(config.segment_length)
    with pytest.raises(KeyboardInterrupt):
        loop.train(config, dataset, tmp_path, workers=2, log_steps=1, on_log=end)
    assert weights.read_tensors(tmp_path / "state.safetensors")[1]["step"] == "1"


@pytest.mark.usefixtures("tiny_preset")
def test_a_device_that_is_not_there_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(mixing, "MixtureDataset", lambda *a: Tones(2048))
    monkeypatch.setattr(torch, "set_flush_denormal", lambda on: True)  # it would stay on
    config = TrainConfig(frames=16, batch_size=2, steps=1, bf16=False)
    run(config, tmp_path / "run")
    told = "device='cuda' is not there on this machine; choose cpu"
    command = ["train", "--steps", "1", "--device", "cuda", "--folder"]
    assert cli.main([*command, str(tmp_path / "new")]) == 2
    assert cli.main([*command, str(tmp_path / "run"), "--export"]) == 2
    assert capsys.readouterr().err == f"moises-light: {told}\n" * 2
    assert not (tmp_path / "new").exists()
    dataset: Any = Tones(2048)
    with pytest.raises(ValueError, match=told):
        loop.calibrated(MoisesLight(**TINY), config, dataset, "cuda")
    with pytest.raises(ValueError, match=told):
        step.main(["--device", "cuda", "--preset", str(tmp_path / "run" / "model.safetensors")])


@pytest.mark.usefixtures("tiny_preset")
def test_a_run_writes_over_nothing_that_is_of_no_run(tmp_path: Path) -> None:
    config = TrainConfig(frames=16, batch_size=2, steps=1, bf16=False)
    foreign = {
        "model.safetensors": "a model.safetensors that would be lost",
        "config.json": "a config.json that is of no run",
    }
    for name, words in foreign.items():
        path = tmp_path / name / name
        path.parent.mkdir()
        path.write_text('{"architectures": ["Other"]}')
        with pytest.raises(ValueError, match=words):
            run(config, path.parent)
        assert os.listdir(path.parent) == [name]
        assert path.read_text() == '{"architectures": ["Other"]}'
    # one that was stopped before its first state begins anew, with other options, too
    early = tmp_path / "early"
    early.mkdir()
    (early / "config.json").write_text(replace(config, seed=3).to_json() + "\n")
    assert run(config, early).is_file()


@pytest.mark.usefixtures("tiny_preset")
def test_the_state_of_another_version_is_refused(tmp_path: Path) -> None:
    config = TrainConfig(frames=16, batch_size=2, steps=1, bf16=False)
    run(config, tmp_path)
    tensors, header = weights.read_tensors(tmp_path / "state.safetensors")
    last = max(int(key.split(".")[1]) for key in tensors if key.startswith("optimizer."))
    for name in ("exp_avg", "exp_avg_sq", "step"):
        first, other = f"optimizer.0.{name}", f"optimizer.{last}.{name}"
        tensors[first], tensors[other] = tensors[other], tensors[first]
    weights.write_tensors(tmp_path / "state.safetensors", tensors, header)
    with pytest.raises(ValueError, match="holds the state of another version; start a new run"):
        run(config, tmp_path)


@pytest.mark.usefixtures("tiny_preset")
def test_a_run_is_not_resumed_as_another(tmp_path: Path) -> None:
    config = TrainConfig(frames=16, batch_size=2, steps=1, bf16=False)
    run(config, tmp_path)
    with pytest.raises(ValueError, match=r"lr=0\.001 \(now 0\.01\); choose another folder"):
        run(replace(config, lr=0.01), tmp_path)


@pytest.mark.usefixtures("tiny_preset")
def test_a_state_of_no_run_is_named(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    config = TrainConfig(frames=16, batch_size=2, steps=1, bf16=False)
    weights.write_tensors(path, {"x": torch.zeros(1)}, {"step": "1"})
    words = f"{path} is the state of no run: it has no config, seconds; choose another folder"
    for ask in (lambda: run(config, tmp_path), lambda: loop.saved_config(tmp_path)):
        with pytest.raises(ValueError, match=re.escape(words)):
            ask()
    newer = {"config": '{"steps": 1, "warp": 9}', "step": "1", "seconds": "0"}
    weights.write_tensors(path, {"x": torch.zeros(1)}, newer)
    with pytest.raises(ValueError, match=re.escape(f"{path} has options that are unknown here")):
        run(config, tmp_path)


@pytest.mark.usefixtures("tiny_preset")
def test_accumulated_parts_are_one_batch(tmp_path: Path) -> None:
    """Batch norms see the parts, so what is compared is the examples that a step draws."""
    seen: dict[int, list[int]] = {1: [], 2: []}

    class Counting(Tones):
        def draw(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            seen[self.parts].append(index)
            return super().draw(index)

    for parts in seen:
        config = TrainConfig(frames=16, batch_size=4, accumulate=parts, steps=2, bf16=False)
        dataset = Counting(config.segment_length)
        dataset.parts = parts
        loop.train(config, dataset, tmp_path / str(parts), workers=0, rescan=False)  # type: ignore[arg-type]
    steps = [index for index in seen[1] if index < 1 << 40]
    assert steps[:8] == list(range(8))
    assert [index for index in seen[2] if index < 1 << 40][:8] == steps[:8]


def test_the_schedule_bends_to_the_budget() -> None:
    config = TrainConfig(minutes=10, steps=1000, warmup=10, lr=1.0)
    assert config.progress(100, 300) == 0.5
    assert config.progress(900, 300) == 0.9
    assert config.learning_rate(0, 0) == pytest.approx(0.1)
    assert config.learning_rate(20, 0) == pytest.approx(1.0, abs=1e-2)
    assert config.learning_rate(20, 599) < 0.02
    assert TrainConfig(steps=1000).progress(100, 1e6) == 0.1
    # however many steps a fast machine takes, it has all of the time
    assert TrainConfig(minutes=10).progress(1_000_000, 300) == 0.5


@pytest.mark.usefixtures("tiny_preset")
def test_a_run_without_an_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing says when the run ends; give minutes, steps or"):
        run(TrainConfig(frames=16, batch_size=2), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"frames": 60}, "frames=60; choose a multiple of 8"),
        ({"loss": "mse"}, "loss='mse'; choose one of bands, snr, mae"),
        ({"steps": -1}, "steps=-1; choose 0 or more"),
        ({"minutes": float("nan")}, "minutes=nan; choose 0 or more"),
        ({"seed": -1}, "seed=-1; choose 0 or more"),
        ({"seed": 2**64}, "seed=18446744073709551616; choose less than 2"),
        ({"absent": -5.0}, "absent=-5.0; choose 0 or more"),
        ({"lr": float("nan")}, "lr=nan; choose more than 0"),
        ({"clip": 0.0}, "clip=0.0; choose more than 0"),
        ({"ema": 1.0}, "ema=1.0; choose a decay from 0 to less than 1"),
        ({"batch_size": 3, "accumulate": 2}, "cannot be cut into accumulate=2 equal parts"),
        ({"sources": ("vocals", "accompaniment")}, "sources names accompaniment; choose from"),
        ({"highs_of": ("strings",)}, "highs_of names strings; choose from vocals, drums"),
        ({"focus_of": ("strings",)}, "focus_of names strings; choose from vocals, drums"),
        ({"focus": 0.0}, "focus=0.0; choose more than 0"),
        ({"preset": "huge"}, "no preset is called 'huge'"),
        ({"teaching": 1.5}, "teaching=1.5; choose a share from 0 to 1"),
        ({"teacher": "paper_large", "loss": "mae"}, "which mae does not compare; choose bands"),
        ({"narrow": -0.1}, "narrow=-0.1; choose a share from 0 to 1"),
        ({"backings": 1.1}, "backings=1.1; choose a share from 0 to 1"),
        ({"songs": -1.0}, "songs=-1.0; choose 0 or more"),
        ({"frozen_norms": True}, "frozen_norms keeps the statistics of a start; give start"),
    ],
)
def test_bad_runs_are_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TrainConfig(**values)  # type: ignore[arg-type]


def test_config_survives_json() -> None:
    config = TrainConfig(sources=("vocals",), minutes=3, highs_of=("vocals", "other"))
    assert TrainConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"steps": 5, "warp": 9, "depth": 1}', "x has options that are unknown here: depth, warp"),
        ('{"steps": "five"}', "x has a value of another kind"),
        ("[]", "x holds no config of a run"),
        ('{"ste', "x holds no config of a run"),
    ],
)
def test_a_foreign_config_is_one_sentence(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TrainConfig.from_json(text, "x")


def test_each_process_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked of torch; there is no machine with two GPUs to try it on."""
    asked: list[object] = []
    monkeypatch.setattr(torch.cuda, "set_device", asked.append)
    monkeypatch.setattr(loop.distributed, "init_process_group", asked.append)
    monkeypatch.setattr(loop.distributed, "is_initialized", lambda: False)
    for name, value in {"RANK": 3, "LOCAL_RANK": 1, "WORLD_SIZE": 4}.items():
        monkeypatch.setenv(name, str(value))
    assert loop._ranks("cuda") == (3, 4)
    assert loop._ranks("cpu") == (3, 4)
    # the clock that ends a run is told over the CPU, gradients go over the GPUs
    assert asked == [1, "cpu:gloo,cuda:nccl", "gloo"]


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_preset")
def test_two_processes_train_as_one_does_in_two_parts(tmp_path: Path) -> None:
    """`torchrun` with two CPU processes: the same weights in both, and in one process alone.

    Batch norms see what a process draws for a step, so one process must take the batch in two
    parts. Their running statistics are a process's own until those of the average are estimated.
    """
    script = tmp_path / "two.py"
    script.write_text(
        f"""
import sys
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parent.parent)!r}]
from dataclasses import replace
from pathlib import Path
import torch
import moises_light.training.config as c, moises_light.training.loop as loop
from moises_light import weights
from moises_light.config import Config
from test_training import TINY, Tones
torch.set_num_threads(1)
small = replace(Config(), **TINY)
for module in (c, loop, weights):
    module.get_config = lambda name: small
loop.CALIBRATION_BATCHES = 2
made, make = [], loop._make_model
def keep(*args, **options):
    made.append(make(*args, **options))
    return made[-1]
loop._make_model = keep
config = c.TrainConfig(frames=16, batch_size=4, steps=3, warmup=1, bf16=False)
folder = Path({str(tmp_path)!r})
loop.train(config, Tones(config.segment_length), folder / "two", workers=0, rescan=False)
parameters = dict(made[0].named_parameters())
weights.write_tensors(folder / f"process{{loop.current_rank()}}.safetensors", parameters, {{}})
"""
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(script)],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    config = TrainConfig(frames=16, batch_size=4, accumulate=2, steps=3, warmup=1, bf16=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run(config, tmp_path / "one")
    finally:
        torch.set_num_threads(threads)

    def tensors(name: str) -> dict[str, torch.Tensor]:
        return weights.read_tensors(tmp_path / f"{name}.safetensors")[0]

    first, second, alone = tensors("process0"), tensors("process1"), tensors("one/state")
    for key, value in first.items():
        assert torch.equal(value, second[key]), key
        # the same bits where we tried; the batch in one part leads elsewhere by up to 8e-3
        torch.testing.assert_close(value, alone[f"model.{key}"], atol=1e-6, rtol=0, msg=key)
    assert weights.read_tensors(tmp_path / "two/state.safetensors")[1]["step"] == "3"
    ours, theirs = tensors("two/model"), tensors("one/model")
    for key, value in ours.items():
        # stored in half precision, whose last bit is a thousandth
        torch.testing.assert_close(value, theirs[key], atol=1e-6, rtol=1e-3, msg=key)


def test_every_option_of_a_run_is_explained() -> None:
    parser = argparse.ArgumentParser()
    training_cli.add_train_arguments(parser)
    explained = {action.dest: action.help or "" for action in parser._actions}
    for field in fields(TrainConfig):
        assert len(explained[field.name].split(" (default")[0]) > 10, field.name


def test_what_is_explained_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.13 strips the indentation of docstrings; before, it stays."""
    text = TrainConfig.__doc__
    assert text is not None
    arguments = " ".join(text.split("Args:")[1].split())
    for doc in (text, inspect.cleandoc(text)):
        monkeypatch.setattr(TrainConfig, "__doc__", doc)
        told = training_cli._meanings()
        assert " ".join(f"{name}: {meaning}." for name, meaning in told.items()) == arguments


class Broken(Tones):
    """A corpus that lost a file."""

    def draw(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        raise FileNotFoundError(2, "No such file", "corpus/train/take.npy")


@pytest.mark.usefixtures("tiny_preset")
def test_what_a_worker_could_not_do_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch, "set_flush_denormal", lambda on: True)  # it would stay on
    monkeypatch.setattr(mixing, "MixtureDataset", lambda *a: Broken(15 * 128))
    command = ["train", "--steps", "1", "--frames", "16", "--batch-size", "2", "--no-bf16"]
    for workers in ("0", "1"):
        assert cli.main([*command, "--workers", workers, "--folder", str(tmp_path)]) == 2
        told = "moises-light: [Errno 2] No such file: 'corpus/train/take.npy'\n"
        assert capsys.readouterr().err == told


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "python"],
)
def test_a_run_out_of_memory_is_told_which_of_its_options_helps(
    error: Exception,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def train(*_: object, **__: object) -> Path:
        raise error

    monkeypatch.setattr(torch, "set_flush_denormal", lambda on: True)  # it would stay on
    monkeypatch.setattr(mixing, "MixtureDataset", lambda *a: None)
    monkeypatch.setattr(loop, "train", train)
    assert cli.main(["train", "--folder", str(tmp_path), "--steps", "1"]) == 2
    told = "not enough memory; give a larger --accumulate, or a smaller --batch-size"
    assert capsys.readouterr().err == f"moises-light: {told}\n"


@pytest.mark.skipif(os.name != "posix", reason="needs SIGHUP")
@pytest.mark.parametrize("sent", ["SIGTERM", "SIGHUP"])
def test_a_run_is_told_to_end_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: str
) -> None:
    number = getattr(signal, sent)
    before = signal.signal(number, signal.SIG_DFL)  # a background job may ignore it
    monkeypatch.setattr(mixing, "MixtureDataset", lambda *a: None)
    # the loop saves its state when it is interrupted, see above
    monkeypatch.setattr(loop, "train", lambda *a, **k: os.kill(os.getpid(), number))
    parser = argparse.ArgumentParser()
    training_cli.add_train_arguments(parser)
    try:
        with pytest.raises(KeyboardInterrupt):
            training_cli.train(parser.parse_args(["--folder", str(tmp_path), "--steps", "1"]))
    finally:
        signal.signal(number, before)


def test_a_run_goes_on_where_nobody_reads_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    def train(*_: object, on_log: Callable[[dict[str, Any]], None], **__: object) -> Path:
        on_log({"step": 1})
        on_log({"step": 2})
        return tmp_path

    monkeypatch.setattr(mixing, "MixtureDataset", lambda *a: None)
    monkeypatch.setattr(torch, "set_flush_denormal", lambda on: True)  # it would stay on
    monkeypatch.setattr(loop, "train", train)
    command = ["train", "--folder", str(tmp_path), "--steps", "1"]
    assert cli.main(command) == 0
    assert capsys.readouterr().out == f"step 1\nstep 2\n{tmp_path}\n"
    monkeypatch.setattr(sys, "stdout", Gone())
    assert cli.main(command) == 0
    x = 0.1 * np.random.default_rng(0).standard_normal((44100, 2))
    for folder in ("true/song", "theirs/song"):
        (tmp_path / folder).mkdir(parents=True)
        sf.write(tmp_path / folder / "bass.wav", x, 44100, subtype="FLOAT")
    monkeypatch.setattr(sys, "stdout", Gone())
    told = ["evaluate", str(tmp_path / "true"), "--estimates", str(tmp_path / "theirs")]
    assert cli.main(told) == 0


def test_tensorboard_is_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match="needs the package tensorboard"):
        training_cli.tensorboard(tmp_path)


class Halves:
    """A separator that hands out half of the mixture for every source."""

    sources = SOURCES
    sample_rate = 44100
    audio_channels = 2

    def __call__(self, mixture: torch.Tensor) -> torch.Tensor:
        return 0.5 * mixture[:, None].repeat(1, 4, 1, 1)


def test_evaluation_scores_song_folders(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "song"
    folder.mkdir()
    audio = {s: 0.1 * rng.standard_normal((44100, 2)) for s in ("vocals", "drums")}
    for source, x in audio.items():
        sf.write(folder / f"{source}.wav", x, 44100, subtype="FLOAT")
    rows = evaluate.evaluate(evaluate.song_folders(tmp_path), Separator(Halves()))
    by_source = {row["source"]: row for row in rows}
    # sources that a song does not have are not scored
    assert set(by_source) == {"vocals", "drums", "accompaniment"}
    # half of two equal, independent sources: the error has half the power of the source
    assert by_source["vocals"]["sdr"] == pytest.approx(3.01, abs=0.1)
    assert by_source["vocals"]["mixture_sdr"] == pytest.approx(0, abs=0.1)
    # what is left of the mixture is all of the drums and half of the vocals
    assert by_source["accompaniment"]["sdr"] == pytest.approx(3.01, abs=0.1)
    text = evaluate.table(evaluate.summary(rows))
    assert "| vocals | 1 | 3.0" in text


def test_evaluation_of_somebody_elses_stems(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for folder, gain in (("true/song", 1.0), ("theirs/song", 0.9)):
        (tmp_path / folder).mkdir(parents=True)
        rng = np.random.default_rng(0)
        x = 0.1 * rng.standard_normal((44100, 2))
        sf.write(tmp_path / folder / "bass.wav", gain * x, 44100, subtype="FLOAT")
    rows = evaluate.evaluate(evaluate.song_folders(tmp_path / "true"), None, tmp_path / "theirs")
    assert rows[0]["sdr"] == pytest.approx(20, abs=0.1)


def test_estimates_are_audio_and_without_loss_where_there_is_a_choice(tmp_path: Path) -> None:
    x = torch.randn(2, 44100, generator=torch.Generator().manual_seed(0))
    tracks = [evaluate.ScoredTrack("one", 2 * x, {"bass": x})]
    theirs = tmp_path / "one"
    theirs.mkdir()
    for name in ("bass.aac.txt", "bass.json", "bass.mp3", "bass.old.wav"):
        (theirs / name).write_text("{}")
    sf.write(theirs / "bass.AIFF", 0.9 * x.T.numpy(), 44100, subtype="FLOAT")
    (row,) = evaluate.evaluate(tracks, None, tmp_path)
    assert row["sdr"] == pytest.approx(20, abs=0.1)
    (theirs / "bass.AIFF").unlink()
    with pytest.raises(ValueError, match=re.escape(f"{theirs / 'bass.mp3'}: bass.mp3 ")):
        evaluate.evaluate(tracks, None, tmp_path)
    (theirs / "bass.mp3").unlink()
    with pytest.raises(ValueError, match="holds no stem of 'one'"):
        evaluate.evaluate(tracks, None, tmp_path)


@pytest.mark.parametrize("damaged", ["true/song/bass", "true/song/mixture", "theirs/song/bass"])
def test_nothing_is_scored_where_a_file_is_damaged(tmp_path: Path, damaged: str) -> None:
    x = 0.1 * np.random.default_rng(0).standard_normal((44100, 2))
    for name in ("true/song/bass", "true/song/mixture", "theirs/song/bass"):
        path = tmp_path / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        sf.write(path, x, 44100, subtype="FLOAT")
    path = tmp_path / f"{damaged}.wav"
    path.write_bytes(path.read_bytes()[:100_000])
    tracks = evaluate.song_folders(tmp_path / "true")
    with pytest.raises(ValueError, match=re.escape(f"{path}: {path.name} is damaged: ")):
        evaluate.evaluate(tracks, None, tmp_path / "theirs")


def test_missing_estimates_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    x = torch.randn(2, 44100, generator=torch.Generator().manual_seed(0))
    tracks = [evaluate.ScoredTrack(n, 2 * x, {"bass": x, "drums": x}) for n in ("one", "two")]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        sf.write(tmp_path / name / "bass.wav", 0.9 * x.T.numpy(), 44100, subtype="FLOAT")
    rows = evaluate.evaluate(tracks, None, tmp_path)
    assert "one: no estimate of drums, not scored" in caplog.text
    assert "| bass | 2 | 20.00 dB" in evaluate.table(evaluate.summary(rows))
    (tmp_path / "two" / "bass.wav").unlink()
    with pytest.raises(ValueError, match=r"holds no stem of 'two'; give files such as two/vocals"):
        evaluate.evaluate(tracks, None, tmp_path)


def test_tracks_can_be_scored_in_mono() -> None:
    mixture, sources = Tones(8000).draw(0)
    named = dict(zip(SOURCES, sources, strict=True))
    [track] = evaluate.in_mono([evaluate.ScoredTrack("one", mixture, named)])
    assert torch.equal(track.mixture[0], track.mixture[1])
    torch.testing.assert_close(sum(track.sources.values()), track.mixture)
    torch.testing.assert_close(track.sources["bass"][1], named["bass"].mean(0))


def test_estimates_are_not_folded_to_mono(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", "songs", "--mono", "--estimates", "."]) == 2
    assert "--mono folds the tracks, not the estimates" in capsys.readouterr().err


def test_a_network_of_another_rate_is_not_scored() -> None:
    network = Halves()
    network.sample_rate = 48_000
    with pytest.raises(ValueError, match=r"for 48000 Hz, tracks are read at 44100 Hz"):
        evaluate.evaluate([], Separator(network))


def test_the_commit_is_of_the_code_and_of_no_repository_round_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*command: str) -> str:
        who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        return subprocess.check_output(["git", *who, *command], cwd=tmp_path, text=True).strip()

    code = tmp_path / "cli.py"
    code.write_text("1\n")
    monkeypatch.setattr(training_cli, "__file__", str(code))
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "somebody's project")
    assert training_cli._commit() == ""
    git("add", "cli.py")
    git("commit", "-q", "-m", "the code")
    assert training_cli._commit() == git("rev-parse", "HEAD")
    code.write_text("2\n")
    assert training_cli._commit() == git("rev-parse", "HEAD") + "-dirty"
    # so is code beside it
    package = tmp_path / "package" / "training"
    package.mkdir(parents=True)
    for path in (package / "cli.py", package.parent / "model.py"):
        path.write_text("1\n")
    git("add", ".")
    git("commit", "-q", "-m", "a package")
    monkeypatch.setattr(training_cli, "__file__", str(package / "cli.py"))
    assert training_cli._commit() == git("rev-parse", "HEAD")
    (package.parent / "model.py").write_text("2\n")
    assert training_cli._commit().endswith("-dirty")


def test_evaluate_makes_the_folder_of_its_rows(tmp_path: Path) -> None:
    x = 0.1 * np.random.default_rng(0).standard_normal((44100, 2))
    for folder in ("true/song", "theirs/song"):
        (tmp_path / folder).mkdir(parents=True)
        sf.write(tmp_path / folder / "bass.wav", x, 44100, subtype="FLOAT")
    rows = tmp_path / "results" / "a.json"
    command = ["evaluate", str(tmp_path / "true"), "--rows", str(rows)]
    assert cli.main([*command, "--estimates", str(tmp_path / "theirs")]) == 0
    assert json.loads(rows.read_text())["source"] == "bass"
    assert cli.main([*command, "--estimates", str(tmp_path / "nowhere")]) == 2
    # nor does a wrong folder cost the rows of an earlier run, which a right one replaces
    command[1] = str(tmp_path / "false")
    assert cli.main([*command, "--estimates", str(tmp_path / "theirs")]) == 2
    command[1] = str(tmp_path / "true")
    assert len(rows.read_text().splitlines()) == 1
    assert cli.main([*command, "--estimates", str(tmp_path / "theirs")]) == 0
    assert len(rows.read_text().splitlines()) == 1


def test_an_unreadable_song_costs_no_scores_of_those_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = np.random.default_rng(0).standard_normal((44100, 2))
    for song in ("one", "two", "worse"):
        for folder, gain in (("true", 0.1), ("theirs", 0.09)):
            (tmp_path / folder / song).mkdir(parents=True)
            for source in ("bass", "drums"):
                path = tmp_path / folder / song / f"{source}.wav"
                sf.write(path, gain * x, 44100, subtype="FLOAT")
    (tmp_path / "true" / "worse" / "bass.wav").write_bytes(b"no audio")
    path = tmp_path / "rows.json"
    path.write_text("of another time\n")
    command = ["evaluate", str(tmp_path / "true"), "--estimates", str(tmp_path / "theirs")]
    assert cli.main([*command, "--rows", str(path)]) == 2
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["track"] for row in rows] == ["one", "one", "two", "two"]
    told = capsys.readouterr()
    lines = told.err.splitlines()
    assert lines[:2] == [f"{song}: bass 20.00 dB, drums 20.00 dB" for song in ("one", "two")]
    assert "bass.wav" in lines[-1]
    assert not told.out
    shutil.rmtree(tmp_path / "true" / "worse")
    assert cli.main(command) == 0
    assert capsys.readouterr().out.startswith("| source | tracks | SDR |")


def test_a_source_without_a_frame_that_museval_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives NaN for frames in which a source is silent; all of them may be."""
    nothing = float("nan")
    scores = {"one": [[nothing, nothing], [4.0, nothing]], "two": [[2.0, 3.0], [5.0, 7.0]]}
    results = iter(np.array(frames) for frames in scores.values())
    museval = SimpleNamespace(evaluate=lambda *args, **options: [next(results)])
    monkeypatch.setitem(sys.modules, "museval", museval)
    x = torch.randn(2, 44100, generator=torch.Generator().manual_seed(0))
    tracks = [evaluate.ScoredTrack(name, x, {"vocals": x, "drums": x}) for name in scores]
    rows = evaluate.evaluate(tracks, Separator(Halves()), bss_eval=True)
    assert [row["bss_sdr"] for row in rows] == [None, 4.0, 2.5, 6.0]
    result = evaluate.summary(rows)
    assert (result["vocals"]["bss_sdr"], result["drums"]["bss_sdr"]) == (2.5, 5.0)
    assert "nan" not in evaluate.table(result)


def test_a_silent_estimate_ends_no_bss_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    def strict(references: np.ndarray, estimates: np.ndarray, **options: int) -> list[np.ndarray]:
        assert estimates.any(axis=(1, 2)).all()
        return [np.full((len(references), 3), 7.0)]

    monkeypatch.setitem(sys.modules, "museval", SimpleNamespace(evaluate=strict))
    x = torch.randn(2, 44100, generator=torch.Generator().manual_seed(0))
    silent = {"vocals": (x, 0 * x), "drums": (x, x)}
    assert evaluate._bss_eval(silent) == {"vocals": None, "drums": 7.0}
    assert evaluate._bss_eval({"vocals": (x, 0 * x)}) == {"vocals": None}


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="museval needs the program ffmpeg")
def test_bss_eval_beside_the_others(tmp_path: Path) -> None:
    pytest.importorskip("museval")
    rng = np.random.default_rng(0)
    references = {s: torch.tensor(rng.standard_normal((2, 3 * 44100))) for s in ("vocals", "bass")}
    tracks = [evaluate.ScoredTrack("song", sum(references.values(), torch.zeros(1)), references)]
    for source, x in references.items():
        (tmp_path / "song").mkdir(exist_ok=True)
        estimate = x + 0.1 * torch.tensor(rng.standard_normal(x.shape))
        sf.write(tmp_path / "song" / f"{source}.wav", estimate.T.numpy(), 44100, subtype="FLOAT")
    rows = evaluate.evaluate(tracks, None, tmp_path, bss_eval=True)
    scored = {row["source"]: row for row in rows}
    for source in references:  # noise of a tenth: 20 dB by any definition
        assert scored[source]["bss_sdr"] == pytest.approx(20, abs=0.3)
    assert "bss_sdr" not in scored["accompaniment"]
    assert "| BSSEval v4 SDR |" in evaluate.table(evaluate.summary(rows))


def test_bss_eval_without_museval_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "museval", None)

    def tracks() -> Iterator[evaluate.ScoredTrack]:
        raise AssertionError("it is told before the work")
        yield

    with pytest.raises(ValueError, match="needs the package museval"):
        evaluate.evaluate(tracks(), None, tmp_path, True)


def test_evaluation_without_songs_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no song folder"):
        list(evaluate.song_folders(tmp_path))
    with pytest.raises(ValueError, match="is not a folder"):
        list(evaluate.song_folders(tmp_path / "nothing"))


SCORED = {
    "notes": "It is a start.",
    "sdr": {"validation": {"vocals": 3.5}, "rendered": {"vocals": 2.9}},
    "mixture_sdr": {"validation": {"vocals": -4.1}, "rendered": {"vocals": -5.2}},
    "at_silence": {"validation": {"vocals": -17.3}, "rendered": {}},
    "tracks": {"validation": {"vocals": 1}, "rendered": {"vocals": 13}},
    "hours": {"vocals": 4.0},
    "licences": ["CC0-1.0"],
}
"""What `make_card` adds to the card of a run."""


def test_the_card_has_both_floors_and_the_checkpoint_before() -> None:
    card = {
        **SCORED,
        "steps": 575,
        "seconds": 2520,
        "seed": 0,
        "commit": "abc",
        "run": json.loads(TrainConfig().to_json()),
    }
    # the accompaniment joined later, and so did the set `backed`
    for key, value in {"sdr": 7.5, "mixture_sdr": 4.0}.items():
        card[key] = {**SCORED[key], "backed": {"vocals": value}}
        card[key]["validation"] = {**SCORED[key]["validation"], "accompaniment": value}
    card["at_silence"] = {**SCORED["at_silence"], "backed": {}}
    before = {
        "sdr": {"validation": {"vocals": 1.25}, "rendered": {"vocals": 2.25}},
        "mixture_sdr": {"validation": {"vocals": -4.1}, "rendered": {"vocals": -5.3}},
    }
    text = release.card_text("paper_small", {**card, "previous": before})
    assert "| vocals | 3.50 | 0 | -4.10 | 1.25 | -17.30 |" in text
    assert "| accompaniment | 7.50 | 0 | 4.00 | - | - |" in text
    assert "| vocals | 7.50 | 0 | 4.00 | - | - |" in text
    assert text.index("## Validation") < text.index("## Backed: singers") < text.index("## Rend")
    assert "## Backed" not in release.card_text("paper_small", {**card, **SCORED})
    # another held-out split was rendered meanwhile, so there is nothing to compare with
    assert "| vocals | 2.90 | 0 | -5.20 | - | - |" in text
    assert "## Validation: whole songs that no training has heard (1 track)" in text
    assert "licences of the material: CC0-1.0" in text
    assert "no licence" not in text
    unknown = {**card, "licences": [], "unlicensed": ["songs/mine"]}
    text = release.card_text("paper_small", unknown)
    assert "material of which no licence is known: 1 (songs/mine)" in text
    assert "licences of the material" not in text
    assert "It is a start." in text
    assert "`paper_small`, 575 steps of 4 examples of 64 frames, 0.7 hours; loss" in text
    fast = {**card, "seconds": 372, "device": "NVIDIA H200"}
    text = release.card_text("paper_small", fast)
    assert "64 frames, 6.2 minutes on NVIDIA H200; loss" in text


@pytest.mark.usefixtures("tiny_preset")
def test_the_card_names_the_runs_before(tmp_path: Path) -> None:
    start, paths = "", []
    for steps in (2, 1, 1):
        config = TrainConfig(frames=16, batch_size=2, steps=steps, bf16=False, start=start)
        paths.append(run(config, tmp_path / str(len(paths))))
        start = str(paths[-1])
    card = weights.load(paths[-1]).metadata["card"]
    assert [earlier["steps"] for earlier in release.earlier_runs(card)] == [2, 1]
    # the files of the runs before need not be there, nor be what they were
    for path in paths[:-1]:
        path.unlink()
    assert [earlier["steps"] for earlier in release.earlier_runs(card)] == [2, 1]
    after = {"run": {"start": str(paths[-1])}}
    assert [earlier["steps"] for earlier in release.earlier_runs(after)] == [2, 1, 1]
    text = release.card_text("paper_small", {**SCORED, **card})
    assert [f", {steps} steps" in text for steps in (1, 2, 3)] == [True, True, False]


def test_the_cards_of_our_weights_stay_as_they_are() -> None:
    folder = Path(__file__).parents[1] / "checkpoints"
    found = weights.available(folder)
    assert found.keys() == {path.stem for path in folder.glob("*.md")}
    for preset, info in found.items():
        text = (folder / f"{preset}.md").read_text(encoding="utf-8")
        assert release.card_text(preset, info.card) == text


@pytest.mark.usefixtures("tiny_preset")
def test_a_run_may_start_from_a_preset_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOISES_LIGHT_CHECKPOINTS", str(tmp_path))
    config = TrainConfig(frames=16, batch_size=2, steps=1, bf16=False)
    first = run(replace(config, steps=2), tmp_path / "first")
    shutil.copy(first, tmp_path / "paper_small.safetensors")
    second = run(replace(config, start="paper_small"), tmp_path / "second")
    card = weights.load(second).metadata["card"]
    assert [earlier["steps"] for earlier in card["earlier_runs"]] == [2]


@pytest.mark.usefixtures("tiny_preset")
def test_a_start_may_be_replaced_while_a_run_goes_on(tmp_path: Path) -> None:
    first = run(TrainConfig(frames=16, batch_size=2, steps=2, bf16=False), tmp_path / "first")
    config = TrainConfig(frames=16, batch_size=2, steps=3, bf16=False, start=str(first))

    def stop(row: dict[str, float]) -> None:
        raise Stop

    with pytest.raises(Stop):
        run(config, tmp_path / "second", log_steps=1, on_log=stop)
    weights.save(MoisesLight(**TINY), first, {})
    second = run(config, tmp_path / "second", log_steps=1)
    card = weights.load(second).metadata["card"]
    assert [earlier["steps"] for earlier in release.earlier_runs(card)] == [2]


@pytest.mark.usefixtures("tiny_preset", "drawn")
def test_a_pruned_start_is_told(tmp_path: Path) -> None:
    first = run(TrainConfig(frames=16, batch_size=2, steps=2, bf16=False), tmp_path / "first")
    scored = weights.load(first)
    about = {"preset": scored.metadata["preset"], "card": {**scored.metadata["card"], **SCORED}}
    weights.save(weights.load_pretrained(first), first, about)
    narrow = tmp_path / "narrow.safetensors"
    told = [str(first), str(narrow), "--features", "2", "--batches", "1", "--batch-size", "2"]
    told.append("--no-bf16")
    assert prune.main([*told, "--blocks", "0", "--bands", "2"]) == 0
    smaller = weights.load(narrow).config
    assert (smaller.n_bands, smaller.freq_dim, smaller.G, smaller.n_rope) == (2, 64, 2, 0)
    # its norms are its own, not those that counted what is gone
    found = weights.load_pretrained(narrow)
    config = TrainConfig(frames=88, batch_size=2, bf16=False)
    again = loop.calibrated(copy.deepcopy(found), config, Tones(config.segment_length), "cpu")
    for name, buffer in found.named_buffers():
        torch.testing.assert_close(buffer, again.get_buffer(name), rtol=2e-2, atol=2e-3)
    # what was scored is another network
    assert "sdr" not in weights.load(narrow).metadata["card"]
    config = TrainConfig(frames=16, batch_size=2, steps=1, bf16=False, start=str(narrow))
    card = weights.load(run(config, tmp_path / "second")).metadata["card"]
    text = release.card_text("paper_small", {**SCORED, **card})
    removed = (
        "then its lowest 2 bands alone; "
        "then without block 0 of its transformers; then pruned to `G=2`; "
        "then batch norms estimated anew from 4 examples"
    )
    assert re.search(f"first `paper_small`, 2 steps .*; {removed}\n", text)


@pytest.mark.usefixtures("tiny_preset")
def test_bands_alone_may_keep_their_norms_and_need_no_corpus(tmp_path: Path) -> None:
    first = run(TrainConfig(frames=16, batch_size=2, steps=2, bf16=False), tmp_path / "first")
    low = tmp_path / "low.safetensors"
    command = [str(first), str(low), "--bands", "2", "--corpus", str(tmp_path / "none")]
    assert prune.main([*command, "--frozen-norms"]) == 0
    expected = prune.lower(weights.load_pretrained(first), 2).state_dict()
    for name, value in weights.load(low).state_dict.items():
        torch.testing.assert_close(value, expected[name], atol=1e-3, rtol=1e-3)
    card = weights.load(low).metadata["card"]
    assert card["lowest_bands"] == 2
    assert "norms_anew" not in card
    again = tmp_path / "again.safetensors"
    assert prune.main([str(first), str(again), "--put-back", str(low)]) == 0
    found = weights.load(again)
    assert found.config == weights.load(first).config
    text = release.card_text("paper_small", {**SCORED, **found.metadata["card"]})
    told = "then its lowest 2 bands alone; then put back into `paper_small`, whose bands above"
    assert told in text


@pytest.mark.usefixtures("tiny_preset")
def test_the_mean_of_two_runs_is_a_network_with_norms_of_its_own(
    tmp_path: Path, drawn: list[mixing.MixingConfig]
) -> None:
    first = run(TrainConfig(frames=16, batch_size=2, steps=2, bf16=False), tmp_path / "first")
    config = TrainConfig(
        frames=16, batch_size=2, steps=4, warmup=1, lr=1e-2, bf16=False, start=str(first),
        songs=0.5, backings=0.25,
    )  # fmt: skip
    second = run(config, tmp_path / "second")
    out = tmp_path / "mean.safetensors"
    assert average.main([str(second), str(first), str(out), "--share", "0.25"]) == 0
    assert drawn == [mixing.MixingConfig.weighted(0.5, 0.25)]  # as the run drew them
    a, b, mean = (weights.load(path) for path in (second, first, out))
    for key, x in mean.state_dict.items():
        if x.is_floating_point() and "running" not in key:
            expected = 0.25 * a.state_dict[key] + 0.75 * b.state_dict[key]
            torch.testing.assert_close(x, expected, atol=1e-3, rtol=1e-3)
    # the mean of two networks' statistics is not the statistics of the mean network
    norms = [key for key in mean.state_dict if key.endswith("running_var")]
    halfway = {k: 0.25 * a.state_dict[k] + 0.75 * b.state_dict[k] for k in norms}
    assert any(not torch.allclose(mean.state_dict[k], halfway[k], rtol=2e-3) for k in norms)
    assert mean.metadata["preset"] == a.metadata["preset"]
    card = mean.metadata["card"]
    assert [earlier["steps"] for earlier in card["earlier_runs"]] == [2]
    text = release.card_text("paper_small", {**SCORED, **card})
    assert "4 steps" in text
    assert "then averaged: 0.25 of these weights and 0.75 of those of the run with seed 0" in text
    assert "; then batch norms estimated anew from 4 examples" in text


@pytest.mark.usefixtures("tiny_preset")
def test_the_mean_of_runs_with_frozen_norms_keeps_them(tmp_path: Path) -> None:
    first = run(TrainConfig(frames=16, batch_size=2, steps=2, bf16=False), tmp_path / "first")
    config = TrainConfig(
        frames=16, batch_size=2, steps=2, bf16=False, start=str(first), frozen_norms=True
    )
    second = run(config, tmp_path / "second")
    out = tmp_path / "mean.safetensors"
    # no corpus is needed
    told = [str(second), str(first), str(out), "--corpus", str(tmp_path / "nowhere")]
    assert average.main(told) == 0
    a, mean = weights.load(first), weights.load(out)
    for key, x in a.state_dict.items():
        if "running" in key:
            assert torch.equal(mean.state_dict[key], x), key
    card = mean.metadata["card"]
    assert "averaged" in card
    assert "norms_anew" not in card


@pytest.mark.usefixtures("tiny_preset")
def test_a_mean_is_refused_before_the_work(tmp_path: Path) -> None:
    tiny, other, out = (str(tmp_path / f"{name}.safetensors") for name in ("a", "b", "c"))
    weights.save(MoisesLight(**TINY), tiny, {})
    weights.save(MoisesLight(**{**TINY, "n_rope": 2}), other, {})
    with pytest.raises(ValueError, match="different networks, which have no mean"):
        average.main([tiny, other, out])
    with pytest.raises(ValueError, match="no card of a run"):
        average.main([tiny, tiny, out])
    with pytest.raises(ValueError, match="more than 0 and less than 1"):
        average.main([tiny, tiny, out, "--share", "1"])


@pytest.mark.usefixtures("tiny_preset")
def test_a_grafted_start_and_the_weight_of_highs_are_told(tmp_path: Path) -> None:
    first = weights.load(
        run(TrainConfig(frames=16, batch_size=2, steps=2, bf16=False), tmp_path / "first")
    )
    start = tmp_path / "start.safetensors"
    card = {**first.metadata["card"], "grafted": "two features", "averaged": "with itself"}
    weights.save(MoisesLight(**TINY), start, {"card": card})
    config = TrainConfig(
        frames=16,
        batch_size=2,
        steps=1,
        bf16=False,
        start=str(start),
        loss="bands",
        highs=3.0,
        highs_of=("vocals", "other"),
        focus=2.0,
        songs=0.5,
        backings=0.5,
    )
    card = weights.load(run(config, tmp_path / "second")).metadata["card"]
    text = release.card_text("paper_small", {**SCORED, **card})
    told = "; then grafted: two features; then averaged: with itself\n"
    assert re.search(f"first `paper_small`, 2 steps .*{told}", text)
    counted = "the highs of vocals and other 3, vocals 2"
    shares = "real songs count 0.5 times, 50% of the examples before backings"
    assert re.search(f"`paper_small`, 1 steps .*, {counted}\\), {shares}, AdamW", text)
    for name in ("highs_of", "focus", "songs", "backings"):
        del card["run"][name]  # as runs were that knew no other choice
    text = release.card_text("paper_small", {**SCORED, **card})
    assert re.search("`paper_small`, 1 steps .*, the highs of vocals 3\\), AdamW", text)


@pytest.mark.usefixtures("tiny_preset")
def test_weights_of_unknown_training_are_told(tmp_path: Path) -> None:
    start = tmp_path / "start.safetensors"
    weights.save(MoisesLight(**TINY), start, {})
    config = TrainConfig(frames=16, batch_size=2, steps=1, bf16=False, start=str(start))
    card = weights.load(run(config, tmp_path / "run")).metadata["card"]
    text = release.card_text("paper_small", {**SCORED, **card})
    assert "- first weights of which no card tells how they were trained\n" in text


def test_a_card_tells_the_licences_of_what_was_heard(tmp_path: Path) -> None:
    kit = [("drums/kit", "a", "b", "CC0-1.0"), ("drums/kit", "c", "d", "MIT")]
    write_licences(tmp_path, [*kit, ("bass/unheard", "e", "f", "CC-BY-4.0")])
    heard = ["drums/kit/snare", "songs/mine"]
    assert licences_of(tmp_path, heard) == {"drums/kit/snare": kit, "songs/mine": []}
    stems = {"bass": np.full((2, 44100), 0.1, "float32")}
    write_track(tmp_path, "train", "one", "song", stems, material=heard)
    card = release.make_card({"earlier_runs": []}, {}, tmp_path, "")
    assert (card["licences"], card["unlicensed"]) == (["CC0-1.0", "MIT"], ["songs/mine"])


def test_a_checkpoint_can_be_scored_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def answers(vocals: float) -> Callable[..., release.Scores]:
        row = {"sdr": vocals, "mixture_sdr": -4.0, "tracks": 1}
        return lambda *args: {name: {"vocals": row} for name in args[5] or ("validation",)}

    def run(*arguments: str) -> dict[str, Any]:
        folders = ("--validation", "songs", "--corpus", str(tmp_path))
        to = ("--checkpoints", str(tmp_path))
        monkeypatch.setattr("sys.argv", ["release", *arguments, *folders, *to])
        assert release.main() == 0
        return weights.load(released).metadata["card"]

    released = tmp_path / "paper_small.safetensors"
    model = MoisesLight(**configs["paper_small"])
    card = {"run": json.loads(TrainConfig().to_json()), "steps": 1, "seconds": 60, "seed": 0}
    new = tmp_path / "model.safetensors"
    weights.save(model, new, {"preset": "paper_small", "card": {**card, "commit": "abc"}})
    write_track(tmp_path, "train", "band-0", "band", {"bass": np.full((2, 44100), 0.1, "float32")})
    monkeypatch.setattr(release, "score", answers(1.0))
    with pytest.raises(ValueError, match="say by --notes what it cannot do"):
        run(str(new))
    assert "previous" not in run(str(new), "--notes", "A start.")
    monkeypatch.setattr(release, "score", answers(2.0))
    once = run(str(new), "--notes", "Better.")
    assert once["previous"]["sdr"] == {"validation": {"vocals": 1.0}}
    before = weights.load(released).state_dict
    capsys.readouterr()
    monkeypatch.setattr(release, "score", answers(3.0))
    again = run(str(released), "--sets", "backed")
    # the other set's score, the notes and the checkpoint before stay; so do the weights
    assert again["sdr"] == {"validation": {"vocals": 2.0}, "backed": {"vocals": 3.0}}
    assert again["tracks"] == {"validation": {"vocals": 1}, "backed": {"vocals": 1}}
    assert {k: v for k, v in again.items() if k not in release.KEYS} == {
        k: v for k, v in once.items() if k not in release.KEYS
    }
    assert "| vocals | 2.00 | 0 | -4.00 | 1.00 | - |" in capsys.readouterr().out
    after = weights.load(released).state_dict
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_missing_heldout_split_is_told_before_the_songs_are_scored(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no corpus at .*heldout"):
        release.score(MoisesLight(**TINY), tmp_path / "nowhere", tmp_path, 6.0)


def test_a_missing_heldout_split_is_told_before_the_corpus_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_track(tmp_path, "train", "one", "band", {"bass": np.full((2, 44100), 0.1, "float32")})
    with pytest.raises(ValueError, match=r"no corpus at .*heldout"):
        corpus_numbers.main([str(tmp_path), "--draws", "1"])
    assert capsys.readouterr().out == ""
