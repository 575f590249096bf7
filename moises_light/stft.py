"""Short-time Fourier transform in the order that the network works in: frames before bins.

Frames are centred, the edges are reflected and the transform is orthonormal, as
`torch.stft(center=True, normalized=True)` has it. Working on `[..., T, F]` saves two transposes of
the largest tensors there are, and lets the inverse take fewer bins than the transform has.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from einops import rearrange
from torch import Tensor


def hann_window(win_size: int, n_fft: int) -> Tensor:
    """Periodic Hann window of `win_size` samples in the middle of `n_fft`. Shape: `[n_fft]`."""
    left = (n_fft - win_size) // 2
    return functional.pad(torch.hann_window(win_size), (left, n_fft - win_size - left))


def stft(audio: Tensor, window: Tensor, hop_length: int) -> Tensor:
    """Spectrum of real signals.

    Args:
        audio: `[B, C, L]`, with `L` a multiple of `hop_length` and more than half the window.
        window: `[n_fft]`.
        hop_length: samples between frames.

    Shape: complex `[B, C, T, F]` with `T = L / hop_length + 1` and `F = n_fft / 2 + 1`.
    """
    n_fft = len(window)
    padded = functional.pad(audio, (n_fft // 2, n_fft // 2), mode="reflect")
    return torch.fft.rfft(padded.unfold(-1, n_fft, hop_length) * window, norm="ortho")


def istft(spectrum: Tensor, window: Tensor, hop_length: int) -> Tensor:
    """Signals of spectra, the inverse of `stft`. Bins that are missing at the top count as zero.

    Args:
        spectrum: complex `[..., T, F]` with at most `n_fft / 2 + 1` bins.
        window: `[n_fft]`.
        hop_length: samples between frames.

    Shape: `[..., L]` with `L = (T - 1) * hop_length`.
    """
    n_fft, n_frames = len(window), spectrum.shape[-2]
    frames = torch.fft.irfft(spectrum, n=n_fft, norm="ortho") * window
    # Every frame adds into the signal, and the squared window into the weight it was given there:
    #   signal[t] = sum_i frame_i[t - i * hop] / sum_i window[t - i * hop] ** 2
    signal = _overlap_add(frames, hop_length)
    weight = _overlap_add((window**2).expand(n_frames, n_fft), hop_length)
    inside = slice(n_fft // 2, n_fft // 2 + (n_frames - 1) * hop_length)
    return signal[..., inside] / weight[inside]


def _overlap_add(frames: Tensor, hop_length: int) -> Tensor:
    """`[..., T, n_fft] -> [..., (T - 1 + ceil(n_fft / hop_length)) * hop_length]`."""
    n_frames, n_fft = frames.shape[-2:]
    hops = -(-n_fft // hop_length)
    if n_fft % hop_length:
        frames = functional.pad(frames, (0, hops * hop_length - n_fft))
    pieces = rearrange(frames, "... t (j h) -> ... t j h", h=hop_length)
    total = frames.new_zeros(*frames.shape[:-2], n_frames + hops - 1, hop_length)
    for j in range(hops):
        total[..., j : j + n_frames, :] += pieces[..., j, :]
    return total.flatten(-2)
