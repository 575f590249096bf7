"""The network of the paper, in one file: small blocks first, the whole model last.

Axes: `B` batch, `S` sources, `C` audio channels, `L` samples, `K` bands, `F` bins (of one band
inside the network), `T` frames, `D` features. `N = B * T`: all frames of all examples.

Inside, a tensor is `[F, N, D]`, in that order in memory. Everything but the attention along time
treats frames independently (or in aligned groups of `2 ** n_enc`), so examples and frames share one
axis; then the dense layers along frequency, the strided layers along time and the 1x1 convolutions
are single matrix products without a transpose, and the group convolutions see what torch calls
channels-last. In `eval` the batch norms are folded into the layers before them.

Source: Moises-Light (arXiv 2510.06785), sec. 3, and where the paper is silent the behaviour of the
package `moises-light` 0.1.0, whose weights fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as functional
from einops import rearrange
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from moises_light.config import SOURCES, Config
from moises_light.stft import hann_window, istft, stft

TILE = 64
"""Frames that encoder and decoder take at a time in `eval`: few enough to stay in the cache."""

PRECISIONS = ("auto", "float32", "bfloat16")
"""What `MoisesLight.set_precision` knows."""


@cache
def multiplies_bfloat16() -> bool:
    """Whether this machine's processor has instructions for products of bfloat16.

    Others compute them by way of float32, which takes longer than float32 itself.
    """
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    checks = [getattr(torch.cpu, name, None) for name in names]
    return any(check() for check in checks if check is not None)


def split_bands(x: Tensor, n_bands: int) -> Tensor:
    """Cut the spectrum into bands of equal width. `[K F, N, D] -> [F, N, K D]`.

    Source: Moises-Light, sec. 3.1.
    """
    return rearrange(x, "(k f) n d -> f n (k d)", k=n_bands)


def merge_bands(x: Tensor, n_bands: int) -> Tensor:
    """Put the bands of `split_bands` back. `[F, N, K D] -> [K F, N, D]`."""
    return rearrange(x, "f n (k d) -> (k f) n d", k=n_bands)


def batch_norm_relu(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """Batch norm over the last axis with the statistics of the batch, then ReLU."""
    if not isinstance(norm, nn.BatchNorm2d):
        raise ValueError(
            f"a batch norm is {type(norm).__name__}, whose statistics this network would not take; "
            f"keep BatchNorm2d (to freeze it, call its eval())"
        )
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    # without a momentum, torch keeps the plain average of all batches
    momentum = norm.momentum
    if momentum is None:
        momentum = 1 / int(norm.num_batches_tracked)
    arguments = (norm.running_mean, norm.running_var, momentum, norm.eps)
    rows = x.reshape(-1, x.shape[-1])
    if x.device.type == "cpu":
        y: Tensor = _BatchNormReLU.apply(rows, norm.weight, norm.bias, *arguments)
        return y.view_as(x)
    mean, var, momentum, eps = arguments
    y = functional.batch_norm(rows, mean, var, norm.weight, norm.bias, True, momentum, eps)
    return relu(y.view_as(x))


class _BatchNormReLU(torch.autograd.Function):
    """Batch norm in training mode and ReLU, with a backward pass that a CPU does fast.

    torch's own takes several times as long for bfloat16 rows. With the normalised rows `u`, the
    gradient `g` behind the ReLU and means over the rows,

        dx = weight / std * (g - mean(g) - u * mean(g * u))    for y = relu(weight * u + bias)

    which is one scale for `g`, one for `x` and one offset per feature.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
    ) -> Tensor:
        if x.dtype == torch.bfloat16:
            y, mean, inv_std = torch.native_batch_norm(
                x, weight, bias, running_mean, running_var, True, momentum, eps
            )
        else:  # torch sums the rows one by one, which costs float32 two or three digits
            mean = x.mean(0)
            y = x - mean
            var = y.square().mean(0)
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(var * (len(x) / max(1, len(x) - 1)), momentum)
            inv_std = (var + eps).rsqrt()
            y = torch.addcmul(bias, y, weight * inv_std, out=y)
        y.relu_()
        ctx.save_for_backward(x, y, weight, mean, inv_std)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, y, weight, mean, inv_std = ctx.saved_tensors
        grad = torch.ops.aten.threshold_backward(grads[0].contiguous(), y, 0)
        # sum(g * x) is the diagonal of g' x: a matrix product beats a product and a sum
        grad_bias = grad.sum(0).float()
        grad_x = torch.mm(grad.t(), x).diagonal().float()
        grad_weight = (grad_x - mean * grad_bias) * inv_std
        on_grad = weight * inv_std
        on_x = -on_grad * inv_std * grad_weight / len(x)
        offset = -on_grad * grad_bias / len(x) - on_x * mean
        dx = torch.addcmul(offset.to(x.dtype), x, on_x.to(x.dtype))
        dx.addcmul_(grad, on_grad.to(x.dtype))
        return dx, grad_weight, grad_bias, None, None, None, None


def scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What a batch norm does in `eval`: `y = scale * x + shift`. Shape: `[D]` each."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


def add(x: Tensor, y: Tensor) -> Tensor:
    """`x + y`, in the memory of `x` where no gradient will ask for it: new memory costs time."""
    return x + y if torch.is_grad_enabled() else x.add_(y)


def relu(x: Tensor) -> Tensor:
    """ReLU of a view, in its memory where no gradient will ask for it.

    Where one will, torch copies the gradient of a view that was changed in place, three times.
    """
    return x.relu() if torch.is_grad_enabled() else x.relu_()


def convolve(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """Convolution along frequency that keeps the length. `[F, N, D] -> [F, N, D']`.

    Args:
        weight: `[D', D / groups, k, 1]`, `k` odd.
    """
    kernel = weight.shape[2]
    if kernel == groups == 1:
        return functional.linear(x, weight[:, :, 0, 0], bias)
    # x[None] comes before the permutation: the other way round torch does not see channels-last
    image = x[None].permute(0, 3, 1, 2)
    image = functional.conv2d(image, weight, bias, padding=(kernel // 2, 0), groups=groups)
    return image.permute(0, 2, 3, 1)[0]


def ungrouped(weight: Tensor, groups: int) -> Tensor:
    """Weights without groups for the same convolution: zeros between them.

    `[D', D / groups, k, 1] -> [D', D, k, 1]`.
    """
    own = torch.eye(groups, dtype=weight.dtype, device=weight.device)
    parts = rearrange(weight, "(g o) i k 1 -> g o 1 i k", g=groups)
    return rearrange(parts * own[:, None, :, None, None], "g o h i k -> (g o) (h i) k 1")


class GroupConv(nn.Module):
    """Convolution along frequency within each band, batch norm, ReLU. `[F, N, D] -> [F, N, D']`.

    Source: Moises-Light, sec. 3.1 (band splitting by group convolution).
    """

    def __init__(self, in_features: int, out_features: int, n_bands: int, kernel_size: int):
        super().__init__()
        self.conv = nn.Conv2d(
            in_features,
            out_features,
            (kernel_size, 1),
            padding=(kernel_size // 2, 0),
            groups=n_bands,
        )
        self.bn = nn.BatchNorm2d(out_features)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.conv.weight, self.conv.bias
        assert bias is not None
        if not self.bn.training:
            scale, shift = scale_and_shift(self.bn)
            weight, bias = weight * scale[:, None, None, None], bias * scale + shift
        groups = self.conv.groups
        if x.device.type == "cuda":
            # a GPU has arithmetic to spare and no fast kernels for few channels in groups
            weight, groups = ungrouped(weight, groups), 1
        y = convolve(x, weight, bias, groups)
        return batch_norm_relu(y, self.bn) if self.bn.training else relu(y)


class TimeDistributedFrequency(nn.Module):
    """Two dense layers along frequency with a bottleneck between them. `[F, N, D] -> [F, N, D]`.

    Source: Moises-Light, sec. 3.2 (TDF of TFC-TDF).
    """

    def __init__(self, n_features: int, n_bins: int, bn_factor: int):
        super().__init__()
        self.fc1 = nn.Linear(n_bins, n_bins // bn_factor)
        self.bn1 = nn.BatchNorm2d(n_features)
        self.fc2 = nn.Linear(n_bins // bn_factor, n_bins)
        self.bn2 = nn.BatchNorm2d(n_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x, self.fc1, self.bn1), self.fc2, self.bn2)

    def layer(self, x: Tensor, linear: nn.Linear, norm: nn.BatchNorm2d) -> Tensor:
        y = torch.mm(linear.weight, x.reshape(len(x), -1)).view(-1, *x.shape[1:])
        bias = linear.bias[:, None, None]
        if norm.training:
            return batch_norm_relu(y + bias.to(y.dtype), norm)
        scale, shift = scale_and_shift(norm)
        return torch.addcmul((bias * scale + shift).to(y.dtype), y, scale.to(y.dtype)).relu_()


class SplitAndMerge(nn.Module):
    """Group convolutions on both sides of a TDF, with two residual paths. `[F, N, D]` stays.

    Source: Moises-Light, fig. 2.
    """

    def __init__(self, n_features: int, config: Config, n_split: int):
        super().__init__()

        def convs(n: int) -> list[GroupConv]:
            return [GroupConv(n_features, n_features, config.n_bands, 3) for _ in range(n)]

        self.res = convs(1)[0]
        self.split1 = nn.Sequential(*convs(n_split))
        self.tdf = TimeDistributedFrequency(
            n_features, config.freq_dim // config.n_bands, config.bn_factor
        )
        self.split2 = nn.Sequential(*convs(n_split))

    def forward(self, x: Tensor) -> Tensor:
        residual = self.res(x)
        x = self.split1(x)
        x = add(self.tdf(x), x)
        return add(self.split2(x), residual)


class TimeDown(nn.Module):
    """Halves the frames: a convolution of two frames with stride two. `[F, N, D] -> [F, N/2, D']`.

    Source: Moises-Light, sec. 3.2.
    """

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.conv = nn.Conv2d(in_features, out_features, (1, 2), stride=(1, 2))
        self.bn = nn.BatchNorm2d(out_features)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = rearrange(self.conv.weight, "o d 1 j -> o (j d)"), self.conv.bias
        assert bias is not None
        x = rearrange(x, "f (n j) d -> f n (j d)", j=2)
        if self.bn.training:
            return batch_norm_relu(functional.linear(x, weight, bias), self.bn)
        scale, shift = scale_and_shift(self.bn)
        return relu(functional.linear(x, weight * scale[:, None], bias * scale + shift))


class TimeUp(nn.Module):
    """Doubles the frames, the transpose of `TimeDown`. `[F, N, D] -> [F, 2N, D']`."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.conv = nn.ConvTranspose2d(in_features, out_features, (1, 2), stride=(1, 2))
        self.bn = nn.BatchNorm2d(out_features)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = rearrange(self.conv.weight, "d o 1 j -> j o d"), self.conv.bias
        assert bias is not None
        if not self.bn.training:
            scale, shift = scale_and_shift(self.bn)
            weight, bias = weight * scale[:, None], bias * scale + shift
        y = functional.linear(x, rearrange(weight, "j o d -> (j o) d"), bias.repeat(2))
        y = rearrange(y, "f n (j o) -> f (n j) o", j=2)
        return batch_norm_relu(y, self.bn) if self.bn.training else relu(y)


class RMSNorm(nn.Module):
    """Scales feature vectors to length `sqrt(D)` and then by a learned gain.

    In two halves: `norm(x)` makes unit vectors; `norm.linear` gives the columns of the linear layer
    that follows the length and the gain, since its weight is a far smaller tensor than `x`.
    """

    def __init__(self, n_features: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(n_features))

    def forward(self, x: Tensor) -> Tensor:
        return functional.normalize(x, dim=-1)

    def linear(self, unit: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return functional.linear(unit, weight * (self.gamma * len(self.gamma) ** 0.5), bias)


class Rotary(nn.Module):
    """Rotary positions: pair `i` of the features of step `t` turns by the angle `t * freqs[i]`.

    Source: RoFormer (arXiv 2104.09864), eq. 34.
    """

    def __init__(self, dim_head: int):
        super().__init__()
        exponent = torch.arange(0, dim_head, 2) / dim_head
        self.freqs = nn.Parameter(10000.0**-exponent, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Turn `[A, T, ..., dim_head]` by the positions along `T`."""
        steps = torch.arange(x.shape[1], device=x.device, dtype=torch.float32)
        angle = torch.outer(steps, self.freqs.float())
        angle = angle.view(1, len(steps), *[1] * (x.ndim - 3), -1)
        pairs = rearrange(x.float(), "... (i r) -> ... i r", r=2)
        if torch.compiler.is_compiling():  # compilers make no code for complex numbers
            (a, b), cos, sin = pairs.unbind(-1), angle.cos(), angle.sin()
            turned = torch.stack([a * cos - b * sin, a * sin + b * cos], -1)
        else:  # a sixth of the time on a CPU
            direction = torch.polar(torch.ones_like(angle), angle)
            turned = torch.view_as_real(torch.view_as_complex(pairs) * direction)
        return turned.flatten(-2).to(x.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention. `[A, heads, T, dim_head]` stays."""
    if q.device.type == "cpu" and torch.is_grad_enabled():
        y: Tensor = _Attend.apply(q, k, v)
        return y
    return functional.scaled_dot_product_attention(q, k, v)


class _Attend(torch.autograd.Function):
    """Attention with a backward pass that a CPU does fast: a few sequences at a time.

    Whole, the shares `p = softmax(q k')` are by far the largest tensor of a training step; so few
    at a time that they stay in the cache, making them twice costs less than keeping them.
    """

    SHARES = 1 << 19

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y = functional.scaled_dot_product_attention(q, k, v)
        ctx.save_for_backward(q, k, v, y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        shape = grads[0].shape
        q, k, v, y, grad = (
            x.reshape(-1, *shape[2:]).contiguous() for x in (*ctx.saved_tensors, grads[0])
        )
        scale = shape[-1] ** -0.5
        q = q * scale
        dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
        # d softmax: ds = p * (dp - sum(p * dp)), and that sum is also sum(grad * y)
        mean = (grad * y).sum(-1, keepdim=True)
        step = max(1, _Attend.SHARES // shape[2] ** 2)
        for start in range(0, len(q), step):
            part = slice(start, start + step)
            shares = torch.bmm(q[part], k[part].transpose(1, 2)).softmax(-1)
            torch.bmm(shares.transpose(1, 2), grad[part], out=dv[part])
            ds = torch.bmm(grad[part], v[part].transpose(1, 2)).sub_(mean[part]).mul_(shares)
            torch.bmm(ds, k[part], out=dq[part])
            torch.bmm(ds.transpose(1, 2), q[part], out=dk[part])
        return (dq * scale).view(shape), dk.view(shape), dv.view(shape)


class Attention(nn.Module):
    """Self-attention along one axis, with rotary positions and a gate for each head.

    Shape: `[A, T, E, D]` stays. It attends along `T`; `A` and `E` tell independent sequences apart,
    and one of them is 1, so that every reshaping here is a view.

    Source: Moises-Light, sec. 3.3; the gates as in the package `moises-light` 0.1.0.
    """

    def __init__(self, n_features: int, heads: int, dim_head: int):
        super().__init__()
        self.heads = heads
        self.dim_head = dim_head
        self.rotary_embed = Rotary(dim_head)
        self.norm = RMSNorm(n_features)
        self.to_qkv = nn.Linear(n_features, 3 * heads * dim_head, bias=False)
        self.to_gates = nn.Linear(n_features, heads)
        self.to_out = nn.Sequential(nn.Linear(heads * dim_head, n_features, bias=False))
        nn.init.zeros_(self.to_out[0].weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        unit = self.norm(x)
        gates = self.norm.linear(unit, self.to_gates.weight, self.to_gates.bias).sigmoid()
        width = self.heads * self.dim_head
        qk, v = self.norm.linear(unit, self.to_qkv.weight).split([2 * width, width], dim=-1)
        qk = self.rotary_embed(rearrange(qk, "a t e (h i) -> a t e h i", i=self.dim_head))
        q, k = rearrange(qk, "a t e (j h) i -> j (a e) h t i", j=2)
        v = rearrange(v, "a t e (h i) -> (a e) h t i", h=self.heads)
        y = rearrange(attend(q, k, v), "(a e) h t i -> a t e h i", a=len(x))
        y = y.contiguous() * gates[..., None]
        return self.to_out(y.flatten(-2))


class FeedForward(nn.Module):
    """Two dense layers with a GELU between them. `[..., D]` stays."""

    def __init__(self, n_features: int, ff_mult: int):
        super().__init__()
        width = n_features * ff_mult
        # the list's gaps are the dropouts of the reference, which hold no weights
        self.net = nn.ModuleDict(
            {
                "0": RMSNorm(n_features),
                "1": nn.Linear(n_features, width),
                "4": nn.Linear(width, n_features),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        norm, inner, outer = (cast(Any, self.net[key]) for key in ("0", "1", "4"))
        return outer(functional.gelu(norm.linear(norm(x), inner.weight, inner.bias)))


class Transformer(nn.Module):
    """Attention and feed-forward along one axis, with a residual round each and round both.

    Shape: `[A, T, E, D]` stays, see `Attention`.
    """

    def __init__(self, n_features: int, config: Config):
        super().__init__()
        attention = Attention(n_features, config.heads, config.dim_head)
        feed_forward = FeedForward(n_features, config.ff_mult)
        self.layers = nn.ModuleList([nn.ModuleList([attention, feed_forward])])

    def forward(self, x: Tensor) -> Tensor:
        attention, feed_forward = cast(nn.ModuleList, self.layers[0])
        y = attention(x) + x
        return feed_forward(y) + y + x


class DualPath(nn.Module):
    """A transformer along frequency, then one along time. `[F, N, D]` stays.

    Source: Moises-Light, sec. 3.3.
    """

    def __init__(self, n_features: int, config: Config):
        super().__init__()
        self.freq_transformer = Transformer(n_features, config)
        self.time_transformer = Transformer(n_features, config)

    def forward(self, x: Tensor, n_examples: int) -> Tensor:
        y = self.freq_transformer(x[None])[0]
        y = rearrange(y, "f (b t) d -> (f b) t 1 d", b=n_examples)
        return rearrange(self.time_transformer(y), "(f b) t 1 d -> f (b t) d", b=n_examples)


class Bottleneck(nn.Module):
    """A split-and-merge block, then the dual-path transformers. `[F, N, D]` stays."""

    def __init__(self, n_features: int, config: Config):
        super().__init__()
        self.split_merge = SplitAndMerge(n_features, config, config.n_split_enc)
        self.rope_blocks = nn.ModuleList(
            [DualPath(n_features, config) for _ in range(config.n_rope)]
        )

    def forward(self, x: Tensor, n_examples: int) -> Tensor:
        for block in self.rope_blocks:
            x = block(x, n_examples)
        return x


class MoisesLight(nn.Module):
    """Separates mixtures into sources by masks on their spectrum.

    Args:
        sources: names of the sources, `SOURCES` if None.
        audio_channels, n_fft, hop_size, win_size, freq_dim, n_bands, G, n_enc, n_dec, n_split_enc,
            n_split_dec, n_rope, bn_factor, heads, dim_head, ff_mult, sample_rate: the fields of
            `Config`, which says what they mean; `MoisesLight(**configs[name])` gives all of them.
        unknown: nothing; other names are refused with those that there are.

    Shape: mixture `[B, C, L]` of any length from one sample to sources `[B, S, C, L]`.

    Raises:
        ValueError: for arguments that do not fit together, or an input of the wrong kind.

    >>> from moises_light import MoisesLight
    >>> tiny = MoisesLight(n_fft=512, hop_size=128, win_size=512, freq_dim=128, G=4, n_rope=1)
    >>> tiny(torch.zeros(1, 2, 1000)).shape
    torch.Size([1, 4, 2, 1000])

    Source: Moises-Light, fig. 1.
    """

    window: Tensor

    def __init__(
        self,
        sources: Sequence[str] | None = None,
        audio_channels: int = 2,
        n_fft: int = 6144,
        hop_size: int = 1024,
        win_size: int = 6144,
        freq_dim: int = 2048,
        n_bands: int = 4,
        G: int = 56,
        n_enc: int = 3,
        n_dec: int = 1,
        n_split_enc: int = 3,
        n_split_dec: int = 1,
        n_rope: int = 5,
        bn_factor: int = 4,
        *,
        heads: int = 4,
        dim_head: int = 32,
        ff_mult: int = 2,
        sample_rate: int = 44100,
        **unknown: Any,
    ):
        super().__init__()
        if unknown:
            raise ValueError(
                f"MoisesLight knows no argument {', '.join(map(repr, unknown))}; "
                f"it takes {', '.join(Config())}"
            )
        self.config = Config(
            sources=SOURCES if sources is None else cast("tuple[str, ...]", sources),
            audio_channels=audio_channels,
            n_fft=n_fft,
            hop_size=hop_size,
            win_size=win_size,
            freq_dim=freq_dim,
            n_bands=n_bands,
            G=G,
            n_enc=n_enc,
            n_dec=n_dec,
            n_split_enc=n_split_enc,
            n_split_dec=n_split_dec,
            n_rope=n_rope,
            bn_factor=bn_factor,
            heads=heads,
            dim_head=dim_head,
            ff_mult=ff_mult,
            sample_rate=sample_rate,
        )
        c = self.config
        n_parts = 2 * c.audio_channels  # real and imaginary part of every channel
        self.register_buffer("window", hann_window(c.win_size, c.n_fft), persistent=False)

        self.first_conv = GroupConv(n_parts * c.n_bands, c.G, c.n_bands, 1)
        widths = [c.G * (i + 1) for i in range(c.n_enc + 1)]
        self.encoder_blocks = nn.ModuleList(
            [SplitAndMerge(width, c, c.n_split_enc) for width in widths[:-1]]
        )
        self.ds = nn.ModuleList([TimeDown(width, width + c.G) for width in widths[:-1]])
        self.bottleneck = Bottleneck(widths[-1], c)
        ups = [TimeUp(width + c.G, width) for width in reversed(widths[:-1])]
        self.dec_heavy_us = nn.ModuleList(ups[: c.n_dec])
        self.dec_heavy_blocks = nn.ModuleList(
            [SplitAndMerge(width, c, c.n_split_dec) for width in widths[-2 : -2 - c.n_dec : -1]]
        )
        self.dec_light_us = nn.ModuleList(ups[c.n_dec :])
        self.final_conv = GroupConv(c.G, n_parts * c.n_bands, c.n_bands, 1)
        self.source_head = nn.Conv2d(n_parts, len(c.sources) * n_parts, 1)
        self.precision = "float32"
        self._start_at_equal_shares()
        self._start_at_equal_depth()

    @torch.no_grad()
    def _start_at_equal_shares(self) -> None:
        """Initialise the head so that every source begins with an equal share of the mixture.

        Each of the last convolution's features stands for one source from the start: it is close to
        one everywhere, and the source's masks are that feature times its share. Our choice: left to
        chance, the masks are noise whose removal is all that the first hundred steps learn.
        """
        n_sources, n_parts = len(self.sources), self.source_head.in_channels
        nn.init.constant_(self.final_conv.bn.weight, 0.2)
        nn.init.ones_(self.final_conv.bn.bias)
        weight = 0.02 * torch.randn(n_sources, n_parts, n_parts)
        for source in range(n_sources):
            own = [k for k in range(n_parts) if k % n_sources == source % n_parts]
            weight[source, :, own] += 1 / max(2, n_sources) / len(own)
        self.source_head.weight.copy_(weight.view_as(self.source_head.weight))
        assert self.source_head.bias is not None
        nn.init.zeros_(self.source_head.bias)

    @torch.no_grad()
    def _start_at_equal_depth(self) -> None:
        """Initialise the transformers so that each adds as much as the first, see `depth_gains`."""
        for name, gain in self.depth_gains().items():
            self.get_parameter(name).mul_(gain)

    def depth_gains(self) -> dict[str, float]:
        """How large the weights of a transformer's outputs must be, by name: 1, 2, 4, 8, ...

        The residual round both of its layers makes every transformer double what passes it, while
        the norms at its layers' inputs take that growth out again. With weights of one size, the
        last of twelve would add 1/2048 of what the first adds, less than bfloat16 can tell. So they
        begin, and training moves them, in proportion to these gains.
        """
        layers = ("0.0.to_out.0.weight", "0.1.net.4.weight", "0.1.net.4.bias")
        transformers = [name for name, m in self.named_modules() if isinstance(m, Transformer)]
        return {
            f"{name}.layers.{layer}": 2.0**number
            for number, name in enumerate(transformers)
            for layer in layers
        }

    def set_precision(self, precision: str) -> MoisesLight:
        """Choose what the transformers compute in; returns the network itself.

        Args:
            precision: `float32`, as a new network has it; `bfloat16`, for which a processor with
                instructions of its own takes about two thirds of the time, and which moves a stem
                by a thousandth of its energy or less (`python -m bench.precision`); or `auto`, that
                on such a processor and float32 everywhere else.

        Raises:
            ValueError: for any other name.
        """
        if precision not in PRECISIONS:
            raise ValueError(f"precision={precision!r}; choose one of {', '.join(PRECISIONS)}")
        self.precision = precision
        return self

    def _transformers_precision(self, device: str) -> AbstractContextManager[Any]:
        """Encoder and decoder stay out of it: in bfloat16 they cost 10 dB and save little."""
        automatic = self.precision == "auto" and device == "cpu" and multiplies_bfloat16()
        if automatic or self.precision == "bfloat16":
            return torch.autocast(device, torch.bfloat16)
        return nullcontext()

    @property
    def sources(self) -> tuple[str, ...]:
        """Names along the `S` axis of the output."""
        return self.config.sources

    @property
    def audio_channels(self) -> int:
        """Channels that the input must have."""
        return self.config.audio_channels

    @property
    def sample_rate(self) -> int:
        """Sample rate in Hz that the input is taken to have."""
        return self.config.sample_rate

    @classmethod
    def from_pretrained(cls, preset: str | Path, folder: str | Path | None = None) -> MoisesLight:
        """The network of a preset (or of a `.safetensors` file) with its weights, in `eval`.

        See `moises_light.weights.load_pretrained`.
        """
        from moises_light import weights

        return weights.load_pretrained(preset, folder)

    def forward(
        self, mixture: Tensor, return_auxiliary_outputs: bool = False
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Separate.

        Args:
            mixture: `[B, C, L]`, at `sample_rate`.
            return_auxiliary_outputs: also return a dict with `masks`, `[B, S, C, 2, F, T]`: what
                the real (0) and the imaginary part (1) of the mixture's STFT are multiplied with,
                for its lowest `F = freq_dim` bins. Bins above are zero in every source.

        Shape: `[B, S, C, L]`.
        """
        self._check(mixture)
        n_samples = mixture.shape[-1]
        padded = functional.pad(mixture, (0, self._padding(n_samples)))
        spectrum = stft(padded, self.window, self.config.hop_size)
        parts = torch.view_as_real(spectrum[..., : self.config.freq_dim])  # [B, C, T, F, 2]
        masks = self.estimate_masks(parts)
        y = torch.view_as_complex(masks * parts[:, None])
        audio = self._istft(y)[..., :n_samples]
        if return_auxiliary_outputs:
            return audio, {"masks": rearrange(masks, "b s c t f r -> b s c r f t")}
        return audio

    def estimate_masks(self, parts: Tensor) -> Tensor:
        """Masks for the parts of a spectrum. `[B, C, T, F, 2] -> [B, S, C, T, F, 2]`.

        `T` is a multiple of `2 ** n_enc`.
        """
        c, n_examples = self.config, len(parts)
        axes = (1, 2, 3, 4)
        mean = parts.mean(axes, keepdim=True)
        x = (parts - mean) / (parts.std(axes, keepdim=True) + 1e-5)
        x = split_bands(rearrange(x, "b c t f r -> f (b t) (c r)"), c.n_bands)
        # In `eval`, batch norm couples no frames: encode and decode in tiles that stay in the cache
        norms = (m for m in self.modules() if isinstance(m, nn.BatchNorm2d))
        whole = self.training or any(norm.training for norm in norms)
        tile = x.shape[1] if whole else max(1, TILE >> c.n_enc) << c.n_enc
        encoded = [self.encode(part) for part in x.split(tile, dim=1)]
        with self._transformers_precision(x.device.type):
            deep = self.bottleneck(torch.cat([x for x, _ in encoded], dim=1), n_examples)
        masks = [
            self.decode(part, skips)
            for part, (_, skips) in zip(deep.split(tile >> c.n_enc, dim=1), encoded, strict=True)
        ]
        return rearrange(torch.cat(masks, dim=2), "s c (b t) f r -> b s c t f r", b=n_examples)

    def encode(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Encoder and the frame-wise part of the bottleneck. Returns its output and the skips."""
        x = self.first_conv(x)
        skips = []
        for block, down in zip(self.encoder_blocks, self.ds, strict=True):
            x = block(x)
            skips.append(x)
            x = down(x)
        return self.bottleneck.split_merge(x), skips

    def decode(self, x: Tensor, skips: list[Tensor]) -> Tensor:
        """Decoder and source head; takes the skips away. Shape: `[S, C, N, F, 2]`, float32."""
        for up, block in zip(self.dec_heavy_us, self.dec_heavy_blocks, strict=True):
            x = block(up(x) * skips.pop())
        for up in self.dec_light_us:
            x = up(x) * skips.pop()
        x = merge_bands(self.final_conv(x), self.config.n_bands)
        x = functional.linear(x, self.source_head.weight[:, :, 0, 0], self.source_head.bias)
        return rearrange(x, "f n (s c r) -> s c n f r", s=len(self.sources), r=2).float()

    def _padding(self, n_samples: int) -> int:
        """Zeros to append: at least one, to whole hops, and frames that `n_enc` halvings divide.

        Source: the package `moises-light` 0.1.0.
        """
        hop, factor = self.config.hop_size, 2**self.config.n_enc
        n_hops = n_samples // hop + 1
        n_hops += -(n_hops + 1) % factor
        # the reflection at the edges needs more than half a window
        while n_hops * hop <= self.config.n_fft // 2:
            n_hops += factor
        return n_hops * hop - n_samples

    def _istft(self, spectrum: Tensor) -> Tensor:
        """Inverse STFT; on the CPU if the device is MPS, since it was not tried on a Mac."""
        if spectrum.device.type == "mps":
            audio = istft(spectrum.cpu(), self.window.cpu(), self.config.hop_size)
            return audio.to(spectrum.device)
        return istft(spectrum, self.window, self.config.hop_size)

    def _check(self, mixture: Tensor) -> None:
        wanted = f"[batch, {self.audio_channels}, samples]"
        if not isinstance(mixture, Tensor) or not mixture.is_floating_point():
            kind = mixture.dtype if isinstance(mixture, Tensor) else type(mixture).__name__
            raise ValueError(f"the mixture is {kind}; give a float tensor {wanted}")
        shape = list(mixture.shape)
        if len(shape) != 3 or shape[1] != self.audio_channels or 0 in shape:
            raise ValueError(f"the mixture has shape {shape}; this network takes {wanted}")
        own = self.first_conv.conv.weight.dtype
        if own in (torch.float16, torch.bfloat16):
            raise ValueError(
                f"the weights are {own}; keep float32 and use torch.autocast with torch.bfloat16"
            )
        device = mixture.device.type
        if torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16:
            raise ValueError(
                "torch.autocast is set to float16, which this network's activations overflow; "
                "give it dtype=torch.bfloat16"
            )
        if mixture.dtype == torch.float64 != own:
            raise ValueError(f"the mixture is {mixture.dtype}, the weights {own}; give .float()")
        # what is compiled or exported cannot branch on values
        if not torch.compiler.is_compiling() and not torch.isfinite(mixture).all():
            raise ValueError("the mixture holds NaN or infinite samples; clean it first")


def count_parameters(config: Config) -> int:
    """Parameters of the network of that config, without taking its memory."""
    with torch.device("meta"):
        return sum(p.numel() for p in MoisesLight(**config).parameters())
