"""How far an estimate is from its reference, in dB.

Axes: `C` audio channels, `L` samples; all axes before them are kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-7
"""Energy that is added above and below the line, so that silence has a value."""


def sdr(reference: Tensor, estimate: Tensor) -> Tensor:
    """Signal-to-distortion ratio over the whole track.

    Energies are summed over channels and samples, then divided, once: no frames, no median, and
    an error of level counts. Silence as the estimate gives 0 dB.

    Args:
        reference: the true source, `[..., C, L]`.
        estimate: what a model made, of the same shape.

    Shape: `[...]`, float32, dB. Where the reference is silent, 0 dB is the best that can be had.

    Raises:
        ValueError: if the shapes differ or have fewer than two axes, or the audio is no tensors
            of floats.

    Source: Sound Demixing Challenge 2023, music track; its definition and its epsilon.

    >>> x = torch.ones(2, 100)
    >>> sdr(x, 0.9 * x).round(), sdr(x, 0 * x)
    (tensor(20.), tensor(0.))
    """
    reference, estimate = _checked(reference, estimate)
    return _decibels(reference, reference - estimate)


def si_sdr(reference: Tensor, estimate: Tensor) -> Tensor:
    """Signal-to-distortion ratio of the best scaled reference: an error of level is free.

    An estimate that is not silent is first brought to the energy of the reference. The scale is one
    number for all channels, so an error of balance counts.

    Args:
        reference: the true source, `[..., C, L]`.
        estimate: what a model made, of the same shape.

    Shape: `[...]`, float32, dB.

    Raises:
        ValueError: if the shapes differ or have fewer than two axes, or the audio is no tensors
            of floats.

    Source: Le Roux et al., "SDR - half-baked or well done?", ICASSP 2019, eq. 3; without removal
        of the mean, as audio has none.

    >>> x = torch.tensor([[1.0, 1.0, 1.0, 1.0]])
    >>> error = torch.tensor([[0.1, -0.1, 0.1, -0.1]])
    >>> si_sdr(x, 0.5 * (x + error)).round()
    tensor(20.)
    """
    reference, estimate = _checked(reference, estimate)
    wanted, found = _energy(reference), _energy(estimate)
    level = torch.where((wanted > 0) & (found > 0), wanted / found, 1.0).sqrt()
    estimate = estimate * level[..., None, None].to(estimate)
    dot = (reference * estimate).sum((-2, -1), dtype=torch.float64)
    scale = dot / (wanted + EPSILON)
    target = reference * scale[..., None, None].to(reference)
    return _decibels(target, target - estimate)


SILENT = 1e-3
"""Peak under which a block of a reference counts as silent, -60 dB."""


def energy_at_silence(
    reference: Tensor, estimate: Tensor, mixture: Tensor, block: int = 44100
) -> float | None:
    """What is left of the mixture where the source does not play, in dB; lower is better.

    The energy of the estimate relative to the mixture's, over all blocks in which the reference is
    silent and the mixture is not. SDR hardly sees it, a listener does.

    Args:
        reference: the true source, `[C, L]`.
        estimate: what a model made, of the same shape.
        mixture: of the same shape.
        block: samples that are silent or not as one; an end that fills none is left out.

    Returns:
        dB, at least -100, or None where the source never rests.

    Raises:
        ValueError: if the shapes differ or have not two axes, or the audio is no tensors of floats.

    Source: predicted energy at silence, Schulze-Forster et al., "Weakly informed audio source
        separation", WASPAA 2019; here relative to the mixture.

    >>> rests = torch.zeros(2, 44100)
    >>> energy_at_silence(rests, 0.1 * torch.ones(2, 44100), torch.ones(2, 44100))
    -20.0
    """
    reference, estimate = _checked(reference, estimate)
    reference, mixture = _checked(reference, mixture)
    if reference.dim() != 2:
        raise ValueError(f"the audio has the shape {list(reference.shape)}; give [C, L]")
    n = reference.shape[-1] // block * block
    if not n:
        return None
    blocks = [x[..., :n].unflatten(-1, (-1, block)) for x in (reference, estimate, mixture)]
    peaks = [x.abs().amax((0, 2)) for x in blocks]
    silent = (peaks[0] < SILENT) & (peaks[2] >= SILENT)
    if not silent.any():
        return None
    left, whole = (x[:, silent].square().sum(dtype=torch.float64) for x in blocks[1:])
    return round(float(10 * (left / whole).clamp(min=1e-10).log10()), 2)


def _energy(audio: Tensor) -> Tensor:
    # millions of squares are too many for a sum in single precision
    return audio.square().sum((-2, -1), dtype=torch.float64)


def _decibels(signal: Tensor, distortion: Tensor) -> Tensor:
    ratio = (_energy(signal) + EPSILON) / (_energy(distortion) + EPSILON)
    return (10 * ratio.log10()).float()


def _checked(reference: Tensor, estimate: Tensor) -> tuple[Tensor, Tensor]:
    """Both in single precision at least: squares of 16-bit floats overflow or vanish."""
    for name, audio in (("reference", reference), ("estimate", estimate)):
        if not isinstance(audio, Tensor) or not audio.is_floating_point():
            came = audio.dtype if isinstance(audio, Tensor) else type(audio).__name__
            raise ValueError(f"the {name} is {came}; give floating-point tensors [..., C, L]")
    if reference.shape != estimate.shape:
        raise ValueError(
            f"reference {list(reference.shape)} and estimate {list(estimate.shape)} "
            f"have different shapes; cut both to the same [..., C, L]"
        )
    if reference.dim() < 2:
        raise ValueError(f"the audio has the shape {list(reference.shape)}; give [..., C, L]")
    both = torch.promote_types(torch.promote_types(reference.dtype, estimate.dtype), torch.float32)
    return reference.to(both), estimate.to(both)
