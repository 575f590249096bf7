"""What training makes small. Spectra are real: `[B, S, C, T, F, 2]`, real and imaginary part."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moises_light.model import MoisesLight
from moises_light.stft import stft

RESOLUTIONS = (4096, 2048, 1024, 512, 256)
"""FFT lengths of `mae_loss`; the hop is a quarter of each. Source: Moises-Light, sec. 4.2."""

FLOOR = 0.02
"""Share of the mixture's energy that an error may have before it counts, 17 dB below it."""


def snr_loss(estimate: Tensor, target: Tensor, mixture: Tensor, floor: float = FLOOR) -> Tensor:
    """Negative signal-to-noise ratio of every source in dB, softened.

        10 log10((|estimate - target|^2 + floor |mixture|^2) / (|target|^2 + floor |mixture|^2))

    The ratio weighs quiet and loud sources alike, and it has no basin at silence as mean absolute
    errors have (they are content with the median of sparse spectra, which is zero). The floor makes
    it defined for sources that are absent. It must not be low: at 0.001 a trace of an absent source
    costs more than anything that present ones can gain, and silence is what is learnt first.

    This is our choice; the floor follows MixIT (arXiv 2006.12701).

    Shape: `[B, S]` from `[B, S, ...]`, and `mixture` `[B, ...]`.
    """
    soft = floor * mixture.flatten(1).square().sum(-1, keepdim=True) + 1e-8
    error = (estimate - target).flatten(2).square().sum(-1)
    return 10 * torch.log10((error + soft) / (target.flatten(2).square().sum(-1) + soft))


def presence(target: Tensor, mixture: Tensor) -> Tensor:
    """One for sources within 20 dB of the mixture, less for quieter ones, zero for absent ones.

    Shape: `[B, S]` from `[B, S, ...]`, and `mixture` `[B, ...]`.
    """
    share = target.flatten(2).square().sum(-1) / (
        mixture.flatten(1).square().sum(-1, keepdim=True) + 1e-8
    )
    return (100 * share).clamp(max=1)


def mae_loss(estimate: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error of complex spectra at several resolutions, and of the waveform.

    Shape: `[B, S]` from `[B, S, C, L]`.

    Source: Moises-Light, sec. 4.2.
    """
    error = estimate - target
    total = error.abs().mean((2, 3))
    for n_fft in RESOLUTIONS:
        window = torch.hann_window(n_fft, device=error.device)
        spectrum = torch.stft(
            error.flatten(0, 2), n_fft, n_fft // 4, window=window, return_complex=True
        )
        parts = torch.view_as_real(spectrum).abs()
        total = total + parts.mean((1, 2, 3)).view(error.shape[:3]).mean(2)
    return total


class Objective(nn.Module):
    """Network and loss as one module, so that whatever wraps the training step wraps one call.

    Args:
        model: the network.
        loss: `snr` or `mae`.
        bf16: compute the masks in bfloat16; spectra and losses stay in float32.
        absent: weight of sources that are absent from an example, see `presence`; `snr` alone.
    """

    def __init__(self, model: MoisesLight, loss: str, bf16: bool, absent: float = 1.0):
        super().__init__()
        self.model = model
        self.loss = loss
        self.bf16 = bf16
        self.absent = absent

    def forward(self, mixture: Tensor, sources: Tensor) -> Tensor:
        """Loss of every example and source. `[B, C, L], [B, S, C, L] -> [B, S]`."""
        with torch.autocast(mixture.device.type, torch.bfloat16, enabled=self.bf16):
            if self.loss == "mae":
                estimate = self.model(mixture)
                return mae_loss(estimate.float(), sources)
            mixed = self.spectrum(mixture)
            masks = self.model.estimate_masks(mixed)
        targets = self.spectrum(sources)
        there = presence(targets, mixed)
        weight = self.absent + (1 - self.absent) * there
        return weight * snr_loss(masks * mixed[:, None], targets, mixed)

    def spectrum(self, audio: Tensor) -> Tensor:
        """`[..., C, L] -> [..., C, T, F, 2]`: the part of the spectrum that the network masks.

        The loss needs no way back to the waveform: the transform is orthonormal, so energies here
        and there agree but for the overlap, and the most expensive layer of a step is saved.
        """
        c = self.model.config
        flat = audio.reshape(-1, *audio.shape[-2:])
        spectrum = stft(flat, self.model.window, c.hop_size)[..., : c.freq_dim]
        return torch.view_as_real(spectrum).unflatten(0, audio.shape[:-2])
