"""The two ratios: what they count as an error, and what silence gives."""

import doctest
import math
from pathlib import Path

import pytest
import soundfile
import torch
from torch.testing import assert_close

from moises_light import metrics
from moises_light.metrics import energy_at_silence, sdr, si_sdr
from moises_light.training import evaluate


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(metrics).failed == 0


@pytest.mark.parametrize("decibels", [-10, 0, 20, 60])
def test_sdr_is_the_level_of_the_error(decibels: float) -> None:
    reference, error = noise(2, 10_000), noise(2, 10_000, seed=1)
    error *= reference.norm() / error.norm() * 10 ** (-decibels / 20)
    # a thousandth of a dB is far below what anyone reports; at 60 dB single precision shows first
    assert_close(sdr(reference, reference + error).item(), float(decibels), atol=1e-3, rtol=0)


def test_sdr_agrees_with_the_formula_written_out() -> None:
    reference, estimate = noise(3, 2, 1000), noise(3, 2, 1000, seed=1)
    for source in range(3):
        signal = distortion = 0.0
        for s, e in zip(
            reference[source].flatten().tolist(), estimate[source].flatten().tolist(), strict=True
        ):
            signal += s * s
            distortion += (s - e) ** 2
        expected = 10 * math.log10((signal + 1e-7) / (distortion + 1e-7))
        assert_close(sdr(reference, estimate)[source].item(), expected, atol=1e-4, rtol=0)


def test_the_floors_silence_gives_zero_and_a_perfect_estimate_is_bounded() -> None:
    reference = noise(2, 1000)
    assert sdr(reference, torch.zeros_like(reference)) == 0
    assert sdr(reference, reference) > 90
    assert sdr(reference, reference).isfinite()


def test_a_silent_reference_has_a_value() -> None:
    silence = torch.zeros(2, 1000)
    assert sdr(silence, silence) == 0
    assert si_sdr(silence, silence) == 0
    assert sdr(silence, noise(2, 1000)) < -90
    assert si_sdr(silence, noise(2, 1000)) < -90


def test_level_counts_for_sdr_and_not_for_si_sdr() -> None:
    reference = noise(2, 10_000)
    estimate = reference + 0.1 * noise(2, 10_000, seed=1)
    assert sdr(reference, 2 * estimate) < 1
    assert_close(si_sdr(reference, 2 * estimate), si_sdr(reference, estimate), atol=1e-3, rtol=0)
    assert si_sdr(reference, estimate) > 19
    assert_close(si_sdr(reference, -estimate), si_sdr(reference, estimate), atol=1e-3, rtol=0)


def test_a_quiet_estimate_has_the_si_sdr_of_a_loud_one() -> None:
    generator = torch.Generator().manual_seed(0)
    x, error = (torch.randn(2, 44100, generator=generator) for _ in range(2))
    for level in (1.0, 1e-4, 1e-6):
        assert float(si_sdr(x, level * (x + 0.1 * error))) == pytest.approx(20, abs=0.1)
    assert float(si_sdr(x, 0 * x)) == 0


def test_an_error_of_balance_counts_for_si_sdr() -> None:
    reference = noise(2, 10_000)
    assert si_sdr(reference, reference * torch.tensor([[1.0], [0.5]])) < 20


def test_axes_in_front_are_kept() -> None:
    reference, estimate = noise(5, 4, 2, 100), noise(5, 4, 2, 100, seed=1)
    for metric in (sdr, si_sdr):
        together = metric(reference, estimate)
        assert together.shape == (5, 4)
        assert_close(together[3, 1], metric(reference[3, 1], estimate[3, 1]))


def test_a_long_track_keeps_its_precision() -> None:
    # 16.8 million equal squares: a running sum in single precision stops at 2**24 of them
    reference = torch.ones(1, 2**24 + 2**22)
    assert_close(sdr(reference, reference * 0.9).item(), 20.0, atol=1e-3, rtol=0)


@pytest.mark.parametrize("metric", [sdr, si_sdr])
def test_shapes_that_do_not_fit_are_refused(metric) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"\[2, 100\] and estimate \[2, 99\] have different"):
        metric(torch.zeros(2, 100), torch.zeros(2, 99))
    with pytest.raises(ValueError, match=r"shape \[100\]; give \[\.\.\., C, L\]"):
        metric(torch.zeros(100), torch.zeros(100))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("metric", [sdr, si_sdr])
def test_16_bit_floats_are_measured_in_single_precision(metric, dtype) -> None:  # type: ignore[no-untyped-def]
    reference, error = noise(2, 100_000), 0.1 * noise(2, 100_000, seed=1)
    for level in (1e-3, 1.0, 500.0):  # squares that vanish, fit and overflow in float16
        pair = [(level * x).to(dtype) for x in (reference, reference + error)]
        assert_close(metric(*pair), metric(*(x.float() for x in pair)), atol=1e-3, rtol=0)
        assert metric(*pair) == pytest.approx(20, abs=0.2)
    rests, quiet = torch.zeros(1, 100, dtype=dtype), torch.full((1, 100), 0.01, dtype=dtype)
    assert energy_at_silence(rests, quiet, quiet, 100) == 0


def test_integers_are_refused() -> None:
    for metric in (sdr, si_sdr):
        with pytest.raises(ValueError, match=r"reference is torch\.int16; give floating-point"):
            metric(torch.zeros(2, 10, dtype=torch.int16), torch.zeros(2, 10))
        with pytest.raises(ValueError, match=r"estimate is torch\.int16; give floating-point"):
            metric(torch.zeros(2, 10), torch.zeros(2, 10, dtype=torch.int16))


def test_what_is_no_tensor_is_refused() -> None:
    for metric in (sdr, si_sdr):
        with pytest.raises(ValueError, match=r"reference is ndarray; give floating-point tensors"):
            metric(torch.zeros(2, 10).numpy(), torch.zeros(2, 10))
        with pytest.raises(ValueError, match=r"estimate is ndarray; give floating-point tensors"):
            metric(torch.zeros(2, 10), torch.zeros(2, 10).numpy())


def test_energy_at_silence_takes_one_source() -> None:
    for shape in ((4, 2, 100), (1, 2, 100)):
        with pytest.raises(ValueError, match=rf"shape \[{shape[0]}, 2, 100\]; give \[C, L\]"):
            energy_at_silence(*torch.ones(3, *shape), 10)


def test_energy_at_silence_counts_only_rests() -> None:
    second = 100
    reference, mixture = torch.zeros(2, 4 * second), torch.ones(2, 4 * second)
    reference[:, : 2 * second] = 0.5
    mixture[:, 3 * second :] = 0  # nothing plays: there is nothing to hear through
    estimate = torch.full((2, 4 * second), 0.1)
    estimate[:, : 2 * second] = 0.5
    assert energy_at_silence(reference, estimate, mixture, second) == pytest.approx(-20)
    assert energy_at_silence(reference, 0 * estimate, mixture, second) == -100
    assert energy_at_silence(mixture, estimate, mixture, second) is None
    assert energy_at_silence(reference[:, :50], estimate[:, :50], mixture[:, :50], second) is None


@pytest.mark.parametrize(("more", "told"), [(0.09, None), (0.2, "2.20 s"), (-1.0, "1.00 s")])
def test_an_estimate_of_another_length_is_not_scored(
    tmp_path: Path, more: float, told: str | None
) -> None:
    reference = 0.1 * noise(2, 2 * 44100)
    estimate = torch.nn.functional.pad(reference, (0, round(more * 44100)))
    (tmp_path / "one").mkdir()
    soundfile.write(tmp_path / "one" / "bass.wav", estimate.T.numpy(), 44100, subtype="FLOAT")
    tracks = [evaluate.ScoredTrack("one", reference, {"bass": reference})]
    if told is None:
        (row,) = evaluate.evaluate(tracks, None, tmp_path)
        assert row["sdr"] > 90
    else:
        words = f"one: the estimate of bass lasts {told}, the track 2.00 s; give one of the whole"
        with pytest.raises(ValueError, match=words):
            evaluate.evaluate(tracks, None, tmp_path)
