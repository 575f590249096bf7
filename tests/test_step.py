"""The benchmark of a training step."""

from __future__ import annotations

import pytest
import torch

from bench.step import KINDS, main, step_of
from moises_light import MoisesLight

TINY = {"n_fft": 512, "hop_size": 128, "win_size": 512, "freq_dim": 128, "G": 4, "n_rope": 1}


def test_a_traced_step_and_other_attentions_have_the_same_gradients() -> None:
    torch.manual_seed(0)
    model = MoisesLight(**TINY).eval()
    plain = step_of(model, 16, 2, bf16=False)()
    assert plain.norm() > 0
    traced = step_of(model, 16, 2, bf16=False, compiled=True, backend="eager")()
    torch.testing.assert_close(traced, plain)
    with torch.no_grad():  # gradients are those of these weights, not kept from before
        model.source_head.weight.mul_(2)
    assert not torch.allclose(step_of(model, 16, 2, bf16=False, attention=KINDS["math"])(), plain)


def test_no_runs_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--runs", "0", "--preset", "none.safetensors"])
    assert "'0': give a whole number >= 1" in capsys.readouterr().err
