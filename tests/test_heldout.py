"""How far weights have come: losses and SDRs on excerpts."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from bench import heldout
from moises_light import MoisesLight
from moises_light.config import SOURCES
from moises_light.training.evaluate import ScoredTrack
from moises_light.training.losses import FLOOR

TINY = {"freq_dim": 2048, "n_bands": 4, "G": 4, "n_rope": 1}


def network_of_even_shares(**changes: object) -> MoisesLight:
    """Gives every source a quarter of the mixture."""
    model = MoisesLight(**{**TINY, **changes}).eval()
    with torch.no_grad():
        model.source_head.weight.zero_()
        assert model.source_head.bias is not None
        model.source_head.bias.fill_(0.25)
    return model


def test_sdr_in_every_band_of_the_range() -> None:
    sources = torch.zeros(1, 4, 2, heldout.LENGTH)
    sources[0, 0] = torch.randn(2, heldout.LENGTH, generator=torch.manual_seed(0))
    rows = heldout.score(network_of_even_shares(), [(sources.sum(1), sources)])
    assert list(rows) == list(SOURCES)
    loss, sdr = rows["vocals"]
    # three quarters of the only source are missing, below 14.7 kHz, where this network's range ends
    assert sdr == pytest.approx([-20 * math.log10(0.75)] * 6, abs=1e-3)
    assert loss < 0 < rows["drums"][0]


def test_quiet_excerpts_count_as_loud_ones_do() -> None:
    quiet, loud = torch.zeros(2, 1, 4, 2, heldout.LENGTH)
    noise = torch.randn(2, heldout.LENGTH, generator=torch.manual_seed(0))
    loud[0, 0] = noise
    quiet[0, :2] = noise / 1000  # a quarter of the mixture is half of either
    batches = [(x.sum(1), x) for x in (loud, quiet)]
    _, sdr = heldout.score(network_of_even_shares(), batches)["vocals"]
    # shares of the mixtures: 0.75^2 of 1 are missing, and 0.25^2 of 0.5^2
    expected = 10 * math.log10((1 + 0.5**2) / (0.75**2 + 0.25**2))
    assert sdr == pytest.approx([expected] * 6, abs=1e-3)


def test_a_sum_is_one_row_and_counts_once() -> None:
    torch.manual_seed(0)
    vocals, rest = torch.randn(2, 2, heldout.LENGTH)
    sources = torch.full((1, 4, 2, heldout.LENGTH), torch.nan)
    sources[0, 0] = vocals
    batch = (vocals + rest)[None], sources
    rows = heldout.score(network_of_even_shares(), [batch])
    assert list(rows) == ["vocals", "accompaniment"]
    # three quarters of the mixture for the rest: too much of the voice, too little of the rest
    error = 0.75**2 + 0.25**2
    loss, sdr = rows["accompaniment"]
    assert sdr == pytest.approx([-10 * math.log10(error)] * 6, abs=0.2)
    # a third of it is `other`, whose upper three bands of six count three times in one half
    ratio = 10 * math.log10((error + 2 * FLOOR) / (1 + 2 * FLOOR))
    assert loss == pytest.approx(ratio * (2 / 3 + (1 + 2) / 2 / 3), abs=0.1)
    vocals_alone = heldout.score(network_of_even_shares(sources=["vocals", "other"]), [batch])
    assert list(vocals_alone) == ["vocals"]


def test_pieces_are_spread_over_the_track_and_end_within_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    length = 4 * heldout.LENGTH
    ramp = torch.arange(length, dtype=torch.float).expand(2, -1)
    track = ScoredTrack("long", 2 * ramp, {"vocals": ramp})
    short = ScoredTrack("short", ramp[:, :100], {"vocals": ramp[:, :100]})
    monkeypatch.setattr(heldout, "corpus_tracks", lambda *args: iter([track, short]))
    [(mixture, sources)] = heldout.pieces(Path("corpus"), 4)
    assert len(mixture) == 3  # the fourth would begin too late
    assert (mixture[:, 0, 0] == 2 * sources[:, 0, 0, 0]).all()
    starts = sources[:, 0, 0, 0] / length
    torch.testing.assert_close(starts, torch.tensor([0.1, 0.32, 0.54]), atol=1e-4, rtol=0)
    assert sources[:, 1:].isnan().all()
    monkeypatch.setattr(heldout, "corpus_tracks", lambda *args: iter([track]))
    [(longer, _)] = heldout.pieces(Path("corpus"), 4, 2 * heldout.LENGTH)
    assert longer.shape == (2, 2, 2 * heldout.LENGTH)


def test_excerpts_are_as_long_as_is_asked_and_of_the_sets_that_there_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lengths: list[int] = []

    def note(corpus: Path, number: int, length: int, split: str = "") -> list[heldout.Batch]:
        lengths.append(length)
        return []

    monkeypatch.setattr(heldout, "drawn", note)
    monkeypatch.setattr(heldout, "pieces", note)
    monkeypatch.setattr(heldout.weights, "load_pretrained", lambda path: network_of_even_shares())
    monkeypatch.setattr(heldout, "score", lambda model, batches: {"vocals": (1.0, [])})
    (tmp_path / "backed").mkdir()
    arguments = ["x.safetensors", "--corpus", str(tmp_path)]
    for frames in ([], ["--frames", "264"]):
        heldout.main([*arguments, *frames])
    assert lengths == [87 * 1024] * 2 + [263 * 1024] * 2
    (tmp_path / "in_key").mkdir()
    capsys.readouterr()
    heldout.main(arguments)
    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [cells[1] for cells in lines[::2]] == ["held out", "backed", "in_key"]
    with pytest.raises(ValueError, match="multiple of 8"):
        heldout.main([*arguments, "--frames", "100"])


def test_excerpts_in_mono_and_with_the_voice_in_the_middle() -> None:
    torch.manual_seed(0)
    known = torch.randn(1, 4, 2, 100)
    unknown = known.clone()
    unknown[:, 1:] = torch.nan
    for sources in (known, unknown):
        batch = known.sum(1), sources
        [(mixture, narrower)] = heldout.in_mono([batch], voice_alone=False)
        torch.testing.assert_close(mixture, known.sum(1).mean(1, keepdim=True).expand(1, 2, 100))
        torch.testing.assert_close(narrower[:, 0, 0], narrower[:, 0, 1])
        [(mixture, narrower)] = heldout.in_mono([batch], voice_alone=True)
        middle = known[:, 0].mean(1, keepdim=True)
        torch.testing.assert_close(mixture, known[:, 1:].sum(1) + middle)
        torch.testing.assert_close(narrower[:, 1:], sources[:, 1:], equal_nan=True)


def test_no_examples_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        heldout.main(["x.safetensors", "--examples", "0"])
    assert "'0': give a whole number >= 1" in capsys.readouterr().err
