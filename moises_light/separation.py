"""A song of any length through a network that hears a few seconds at a time.

The song is cut in segments that overlap, each is separated by itself, and the results are
cross-faded. Finished blocks come out in order while the rest is still to come, and what is held
meanwhile does not grow with the song.

Axes: `B` batch, `S` sources, `C` audio channels, `L` samples of the song, `l` of a segment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice, pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn

MAX_SEGMENT = 600.0
"""Longest segment in seconds: beyond it a network would need tens of gigabytes."""

MAX_BATCH = 1024
"""Most segments that go through the network together."""

MAX_SHIFT = 0.5
"""Time shifts lie below so many seconds, as demucs has them."""


PIECE = 2**20
"""Samples that are looked at together, so that a check needs no mask of a song's length."""


SIDES_FROM, SIDES_LATER, SIDES_LEVEL = 200.0, 0.012, 0.4
"""Sides that `with_sides` makes up: above so many Hz, so many seconds later, and how strong."""


INAUDIBLE = 1e-5
"""Energy of the sides beside that of the middle, up to which stereo is mono: -50 dB."""


MIXES = {"karaoke": "vocals", "drumless": "drums"}
"""Mixes that are the song less one stem, so that what no stem claims stays in them."""


class Model(Protocol):
    """What `Separator` needs to know of a network."""

    @property
    def sources(self) -> Sequence[str]: ...

    @property
    def sample_rate(self) -> int: ...

    def __call__(self, mixture: Tensor, /) -> Any: ...


@dataclass(frozen=True)
class Segment:
    """One piece of the song on its way through the network.

    Args:
        audio: what the network hears, `[C, l]`.
        start: place in the song, in samples, from which on the output is used.
        context: samples at the front of `audio` that lie before `start` and are only heard.
        finished: no later segment reaches back before this place in the song.
    """

    audio: Tensor
    start: int
    context: int
    finished: int


def crossfade(length: int, overlap_length: int, *, rise: bool = True, fall: bool = True) -> Tensor:
    """The weight of each sample of a segment where segments overlap.

    Args:
        length: samples of a segment, `l`.
        overlap_length: samples that neighbouring segments share, fewer than `length`.
        rise: whether a segment comes before it; the first one of a song starts at full weight.
        fall: whether one comes after it.

    Shape: `[l]`, float64, on the CPU, all above zero.

    >>> crossfade(6, 2).mul(3).round().tolist()
    [1.0, 2.0, 3.0, 3.0, 2.0, 1.0]
    """
    # Of v shared samples the k-th one (k = 1 ... v) counts (v + 1 - k) / (v + 1) in the segment
    # that goes and k / (v + 1) in the one that comes:
    #
    #   1 ________              ______________              ____
    #             \            /              \            /
    #               \        /                  \        /
    #                 \    /                      \    /
    #                   \/      <- v samples ->     \/
    #                 /    \                      /    \
    #               /        \                  /        \
    #   0 ________/            \______________/            \____
    #
    # The two add up to one. Above an overlap of one half the ramps of one segment meet (a
    # triangle is left) and three or more segments share a sample, so `overlap_add` divides by the
    # sum of the weights; no weight is zero, so neither is the sum.
    ramp = torch.arange(1, length + 1, dtype=torch.float64, device="cpu")
    weight = torch.full_like(ramp, overlap_length + 1)
    if rise:
        weight = torch.minimum(weight, ramp)
    if fall:
        weight = torch.minimum(weight, ramp.flip(0))
    return weight / (overlap_length + 1)


def cut(chunks: Iterable[Tensor], length: int, hops: Iterator[int]) -> Iterator[Segment]:
    """Cut a stream into overlapping segments, each as soon as the song goes on behind it.

    Every segment is `length` samples long, also the last one: it reaches back as far as it must,
    because silence added at the end would change the level that the network normalises by. Only
    a song that is shorter than a segment gives a shorter one.

    Args:
        chunks: the song in pieces `[C, n]` of any sizes, `n` may be 0.
        length: samples of a segment.
        hops: samples from each segment's start to the next one's, at most `length`, without end.
    """
    # the last `length` samples, the oldest at `received % length`
    ring = torch.empty(0, length, device="cpu")
    received = start = 0
    due = length  # samples that the segment at `start` still lacks
    for chunk in chunks:
        if not received:
            # the caller may leave its inference mode before the next piece, which goes here, too
            with torch.inference_mode(False):
                ring = chunk.new_empty(chunk.shape[0], length)
        while chunk.shape[-1]:
            if not due:
                due = next(hops)
                audio = ring.roll(-(received % length), -1)
                yield Segment(audio, start, context=0, finished=start + due)
                start += due
            piece, chunk = chunk[:, :due], chunk[:, due:]
            end = received + piece.shape[-1]
            ring[:, torch.arange(received, end, device=ring.device) % length] = piece
            due -= end - received
            received = end
    if received:
        full = received >= length
        audio = ring.roll(-(received % length), -1) if full else ring[:, :received]
        context = start - (received - audio.shape[-1])
        yield Segment(audio, start, context, finished=received)


def batched(segments: Iterator[Segment], batch_size: int) -> Iterator[list[Segment]]:
    """Group segments; the first goes alone, so that a listener need not wait for a whole batch."""
    yield from ([segment] for segment in islice(segments, 1))
    while batch := list(islice(segments, batch_size)):
        yield batch


def overlap_add(
    separated: Iterable[tuple[Segment, Tensor]], overlap_length: int
) -> Iterator[Tensor]:
    """Cross-fade separated segments into one stream of finished blocks.

    Every sample is the weighted mean of the segments that cover it. It is taken in double
    precision, whose errors vanish when a block is rounded to single precision: what was equal in
    all segments comes back bit by bit.

    Args:
        separated: segments in order, each with its sources `[S, C, l]`.
        overlap_length: samples that neighbouring segments share.

    Shape: blocks `[S, C, n]`, float32, on the CPU, one after the other the whole song.
    """
    tail: Tensor | None = None  # weighted sums of what is not finished, [S, C, overlap]
    tail_weight = torch.empty(0, device="cpu")
    for segment, sources in separated:
        used = sources[..., segment.context :]
        length, done = used.shape[-1], segment.finished - segment.start
        weight = crossfade(length, overlap_length, rise=tail is not None, fall=done < length)
        weight = weight.to(used.device)
        total = used * weight
        if tail is not None:
            total[..., : tail.shape[-1]] += tail
            weight[: tail.shape[-1]] += tail_weight
        tail, tail_weight = total[..., done:].clone(), weight[done:].clone()
        yield (total[..., :done] / weight[:done]).float().cpu()


def shift_offsets(shifts: int, limit: int, seed: int) -> list[int]:
    """How much earlier than the first pass each further pass over the song cuts, in samples.

    Args:
        shifts: number of passes; none means one pass that is not shifted.
        limit: offsets are different whole numbers below it.
        seed: the same seed gives the same offsets.

    >>> shift_offsets(0, 100, seed=0)
    [0]
    """
    if not shifts:
        return [0]
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(limit, generator=generator, device="cpu")[:shifts].tolist()


def hop_lengths(hop_length: int, offsets: Sequence[int]) -> Iterator[int]:
    """Samples between the starts of segments, for several passes woven into one.

    All passes share the first segment, at 0; pass `i` goes on at `hop_length - offsets[i]` and
    from there in steps of `hop_length`.

    >>> hops = hop_lengths(10, [0, 3])
    >>> [next(hops) for _ in range(5)]
    [7, 3, 7, 3, 7]
    """
    starts = sorted(hop_length - offset for offset in offsets)
    yield starts[0]
    yield from cycle(b - a for a, b in pairwise([*starts, starts[0] + hop_length]))


def is_mono(audio: Tensor) -> bool:
    """Whether `[C, l]` is stereo whose two channels are the same, but for what nobody hears."""
    if len(audio) != 2:
        return False
    left, right = audio.double()
    middle, sides = (left + right) / 2, (left - right) / 2
    return bool(sides.square().sum() <= INAUDIBLE * middle.square().sum())


def with_sides(audio: Tensor, sample_rate: int) -> Tensor:
    """Stereo from mono: what is in the middle comes from the sides a little later, too.

    The sides of the left channel are those of the right one turned over, so the mean of the two
    channels is the mono that it was. The bass stays in the middle, where mixes have it.

    Shape: `[2, l] -> [2, l]`.
    """
    middle = audio.mean(0)
    n = middle.shape[-1]
    padded = n + 2 * round(SIDES_LATER * sample_rate)  # or its end would sound at its beginning
    padded += -padded % 4096  # lengths with a large prime factor take long
    hertz = torch.fft.rfftfreq(padded, 1 / sample_rate, device=audio.device)
    rise = torch.sigmoid(6 * torch.log2(hertz.clamp(min=1.0) / SIDES_FROM))
    later = torch.exp(-2j * torch.pi * SIDES_LATER * hertz)
    spectrum = torch.fft.rfft(middle, n=padded) * rise * later
    sides = SIDES_LEVEL * torch.fft.irfft(spectrum, n=padded)[:n]
    return torch.stack([middle + sides, middle - sides])


def device_of(name: str | torch.device) -> torch.device:
    """The device of that name, if a network can run there on this machine.

    Args:
        name: `cpu`, `cuda`, `cuda:1`, `mps`, or a device that is to be checked.

    Raises:
        ValueError: if the name is unknown, of a kind that is not supported, or the device is not
            there.

    >>> device_of("cpu")
    device(type='cpu')
    """
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise ValueError(f"device={name!r} is unknown; choose cpu, cuda or mps") from None
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    there = {
        "cpu": True,
        "cuda": cuda and (device.index or 0) < torch.cuda.device_count(),
        "mps": mps,
    }
    if device.type not in there:
        raise ValueError(f"device={str(device)!r} is not supported; choose cpu, cuda or mps")
    if not there[device.type]:
        raise ValueError(f"device={str(device)!r} is not there on this machine; choose cpu")
    return device


class Separator:
    """Separate songs of any length, as a whole or as a stream.

    Args:
        model: a callable with `sources` (names) and `sample_rate` (Hz) that turns `[B, C, l]`
            into `[B, S, C, l]`, and where it has `audio_channels`, takes that `C` alone.
            A `torch.nn.Module` is moved to `device` and put in evaluation
            mode when a song starts.
        segment: seconds that the network hears at once, at most `MAX_SEGMENT`.
        overlap: share of a segment that it has in common with the next one, 0 to 0.9.
        shifts: passes over the song, each cut at other places by less than `MAX_SHIFT` seconds,
            whose mean is taken: better by a little, slower by that factor. 0 and 1 mean one pass.
        batch_size: segments that go through the network together, at most `MAX_BATCH`. The first
            one goes alone, so that the first block is there as soon as can be.
        residual: name of the source that gets what no source claimed, so that all of them add up
            to the mixture; `None` leaves the sources as the network gave them.
        device: where the network runs: `cpu`, `cuda`, `cuda:1`, `mps` ...
        seed: decides the places of the shifts.
        widen_mono: let the network hear a segment that `is_mono` as it is `with_sides`, and give
            its sources back in mono. Networks that learnt from stereo alone take what has
            no sides for a bass.

    Raises:
        ValueError: if an argument is outside its range, a device is not there, the model's sources
            are one text, or `residual` is no source of the model.

    >>> class Identity:
    ...     sources, sample_rate = ("all",), 8000
    ...     def __call__(self, mixture): return mixture[:, None]
    >>> song = torch.randn(2, 100_000)
    >>> torch.equal(Separator(Identity(), segment=1.5)(song)[0], song)
    True
    """

    def __init__(
        self,
        model: Model,
        *,
        segment: float = 6.0,
        overlap: float = 0.25,
        shifts: int = 0,
        batch_size: int = 1,
        residual: str | None = None,
        device: str | torch.device = "cpu",
        seed: int = 0,
        widen_mono: bool = True,
    ) -> None:
        self.model = model
        self.widen_mono = widen_mono
        if isinstance(model.sources, str):
            raise ValueError(
                f"the model's sources are the text {model.sources!r}; "
                f"let it have a list of names, for example [{model.sources!r}]"
            )
        self.sources = tuple(model.sources)
        self.sample_rate = int(model.sample_rate)
        self.device = device_of(device)
        if not 0 < segment <= MAX_SEGMENT:
            raise ValueError(
                f"segment={segment} s; choose more than 0 and at most {MAX_SEGMENT:g} seconds"
            )
        if not 0 <= overlap <= 0.9:
            raise ValueError(f"overlap={overlap}; choose a share of the segment from 0 to 0.9")
        for name, number, least in (("batch_size", batch_size, 1), ("shifts", shifts, 0)):
            if isinstance(number, bool) or not isinstance(number, int) or number < least:
                raise ValueError(f"{name}={number!r}; choose a whole number >= {least}")
        if batch_size > MAX_BATCH:
            raise ValueError(f"batch_size={batch_size}; choose at most {MAX_BATCH}")
        if residual is not None and residual not in self.sources:
            raise ValueError(
                f"residual={residual!r} is no source of this model; "
                f"choose one of {', '.join(self.sources)}"
            )
        self.batch_size = batch_size
        self.residual = residual
        self.segment_length = round(segment * self.sample_rate)
        if not self.segment_length:
            raise ValueError(
                f"segment={segment} s is less than a sample at {self.sample_rate} Hz; "
                f"choose a longer one"
            )
        self.hop_length = max(1, round(self.segment_length * (1 - overlap)))
        limit = max(1, min(self.hop_length, round(MAX_SHIFT * self.sample_rate)))
        if shifts > limit:
            raise ValueError(
                f"shifts={shifts}, but a segment of {segment} s leaves room for {limit}; "
                f"choose fewer shifts or a longer segment"
            )
        self.offsets = shift_offsets(shifts, limit, seed)

    @property
    def overlap_length(self) -> int:
        """Samples that neighbouring segments share."""
        return self.segment_length - self.hop_length

    def __call__(
        self,
        mixture: Tensor | Iterable[Tensor],
        progress: Callable[[int, int | None], object] | None = None,
    ) -> Tensor:
        """Separate a whole song.

        Args:
            mixture: `[C, L]` or pieces `[C, n]` of it, at `sample_rate`.
            progress: called after every block with the samples that are done and the samples of
                the song, or `None` in their place where the song came in pieces.

        Shape: `[S, C, L]`, float32, on the CPU.

        Raises:
            ValueError: as `blocks`.
        """
        length = mixture.shape[-1] if isinstance(mixture, Tensor) and mixture.dim() else None
        stems: list[Tensor] = []
        done = 0
        for block in self.blocks(mixture):
            if length is None:
                stems.append(block)
            else:  # blocks that wait to be joined would take the song's memory twice
                if not stems:
                    stems.append(block.new_empty(*block.shape[:-1], length))
                stems[0][..., done : done + block.shape[-1]] = block
            done += block.shape[-1]
            if progress is not None:
                progress(done, length)
        return torch.cat(stems, dim=-1) if length is None else stems[0]

    def blocks(self, mixture: Tensor | Iterable[Tensor]) -> Iterator[Tensor]:
        """Separate a song block by block.

        A block comes out when the segment that completes it is through the network, the first
        one after the first segment (which starts when the song goes on behind it). What is held
        between blocks does not grow with the song: its last segment, one batch of segments with
        what the model made of them, and one overlap of each source.
        Closing this generator once it has begun, or leaving its loop, closes the iterator that the
        song came from.

        Args:
            mixture: `[C, L]`, or an iterable of pieces `[C, n]` of any sizes, at `sample_rate`;
                floating-point numbers, on any device.

        Shape: blocks `[S, C, n]`, float32, on the CPU, one after the other exactly the song.

        Raises:
            ValueError: if the mixture is empty, has the wrong number of channels, is not made of
                finite floating-point numbers, or if the model gives another shape than
                `[B, S, C, l]` or numbers that are complex or not finite. A whole tensor is refused
                at once, a piece when its turn comes.
        """
        if isinstance(mixture, Tensor):
            if mixture.dim() == 2 and not mixture.shape[-1]:
                raise ValueError("the mixture is empty; give at least one sample")
            self._check_shape(mixture, None)
            for i, piece in enumerate(mixture.split(PIECE, dim=-1)):
                self._check_finite(piece, i * PIECE)
            return self._run(iter([mixture]))
        return self._run(iter(mixture))

    def _run(self, chunks: Iterator[Tensor]) -> Iterator[Tensor]:
        try:
            if isinstance(self.model, nn.Module):
                self.model.to(self.device).eval()
            hops = hop_lengths(self.hop_length, self.offsets)
            segments = cut(self._checked(chunks), self.segment_length, hops)
            batches = batched(segments, self.batch_size)
            separated = (pair for batch in batches for pair in self._separate(batch))
            yield from overlap_add(separated, self.overlap_length)
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()

    def _separate(self, batch: list[Segment]) -> Iterator[tuple[Segment, Tensor]]:
        mono = [self.widen_mono and is_mono(segment.audio) for segment in batch]
        mixtures = torch.stack(
            [
                with_sides(segment.audio, self.sample_rate) if flat else segment.audio
                for segment, flat in zip(batch, mono, strict=True)
            ]
        )
        # not held open across a yield: the caller's own code would run in inference mode
        with torch.inference_mode():
            estimates = self.model(mixtures.to(self.device))
        b, c, length = mixtures.shape
        expected = (b, len(self.sources), c, length)
        if not isinstance(estimates, Tensor) or tuple(estimates.shape) != expected:
            came = list(estimates.shape) if isinstance(estimates, Tensor) else type(estimates)
            raise ValueError(
                f"the model gave {came} for {list(mixtures.shape)}, not {list(expected)}"
            )
        if estimates.is_complex():
            raise ValueError(f"the model gave complex numbers ({estimates.dtype}); give real ones")
        if self.device.type == "mps":
            estimates = estimates.cpu()  # MPS has no double precision
        for segment, estimate, flat in zip(batch, estimates, mono, strict=True):
            if not torch.isfinite(estimate).all():
                second = segment.start / self.sample_rate
                raise ValueError(
                    f"the model gave numbers that are not finite at {second:.1f} s; "
                    f"its weights are damaged or its precision is too low"
                )
            sources = estimate.double()
            if flat:
                sources = sources.mean(1, keepdim=True).expand_as(sources)
            if self.residual is not None:
                # sums commute with the weighted mean to come, so each segment can do it by itself
                mixture = segment.audio.to(sources)
                index = self.sources.index(self.residual)
                sources = sources.clone()
                sources[index] += mixture - sources.sum(0)
            yield segment, sources

    def _checked(self, chunks: Iterator[Tensor]) -> Iterator[Tensor]:
        channels, received = None, 0
        for chunk in chunks:
            self._check_shape(chunk, channels)
            channels = chunk.shape[0]
            for piece in chunk.detach().split(PIECE, dim=-1):
                self._check_finite(piece, received)
                received += piece.shape[-1]
                yield piece.cpu().float()
        if not received:
            raise ValueError("the mixture is empty; give at least one sample")

    def _check_shape(self, chunk: Tensor, channels: int | None) -> None:
        channels = getattr(self.model, "audio_channels", channels)
        if not isinstance(chunk, Tensor) or not chunk.is_floating_point():
            came = chunk.dtype if isinstance(chunk, Tensor) else type(chunk).__name__
            raise ValueError(f"the mixture came as {came}; give floating-point tensors [C, L]")
        if chunk.dim() != 2 or not chunk.shape[0]:
            raise ValueError(f"the mixture has the shape {list(chunk.shape)}; give [C, L]")
        if channels is not None and chunk.shape[0] != channels:
            raise ValueError(
                f"the mixture has {chunk.shape[0]} channels, {channels} are needed; "
                f"give [{channels}, L]"
            )

    def _check_finite(self, piece: Tensor, received: int) -> None:
        finite = torch.isfinite(piece.float()).all(0)
        if not finite.all():
            second = (received + int(finite.logical_not().nonzero()[0])) / self.sample_rate
            raise ValueError(
                f"the mixture holds NaN or infinity at {second:.1f} s; "
                f"repair the recording or leave that part out"
            )
