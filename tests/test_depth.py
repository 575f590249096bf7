"""What a block of the bottleneck is worth."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench import depth
from moises_light import MoisesLight, weights

TINY = {"n_fft": 512, "hop_size": 128, "win_size": 512, "freq_dim": 128, "G": 4, "n_rope": 2}


class Noise:
    """Stands in for `MixtureDataset`; all but the bass may be silent."""

    def __init__(self, others: float):
        self.others = others

    def draw(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        sources = 0.1 * torch.randn(4, 2, 128 * 15, generator=torch.manual_seed(number))
        mixture = sources.sum(0)
        sources[[0, 1, 3]] *= self.others
        return mixture, sources


def test_sources_that_a_network_does_not_separate_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    weights.save(MoisesLight(**TINY, sources=["bass"]), tmp_path / "bass.safetensors", {})
    printed = []
    for others in (1.0, 0.0):
        monkeypatch.setattr(depth, "MixtureDataset", lambda *args, o=others, **kinds: Noise(o))
        assert depth.main([str(tmp_path / "bass.safetensors"), "--examples", "2"]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    rises = printed[0].splitlines()[-1].split("|")[3].split(",")
    assert len(rises) == TINY["n_rope"]


def test_no_examples_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        depth.main(["x.safetensors", "--examples", "0"])
    assert "'0': give a whole number >= 1" in capsys.readouterr().err
