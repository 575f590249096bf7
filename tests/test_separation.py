"""Segments, cross-fades and streams, driven with fakes: no network is needed to find them out."""

import doctest
import gc
import itertools
import weakref
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from moises_light import separation
from moises_light.separation import Separator, crossfade, hop_lengths, shift_offsets

RATE = 100  # so that a second is a hundred samples and an hour takes a moment


class Fake:
    """A model whose sources are functions of the mixture `[B, C, l]`; it notes what it heard."""

    sample_rate = RATE

    def __init__(self, **sources: Callable[[Tensor], Tensor]) -> None:
        self.sources = tuple(sources)
        self.functions = tuple(sources.values())
        self.heard: list[tuple[int, ...]] = []

    def __call__(self, mixture: Tensor) -> Tensor:
        self.heard.append(tuple(mixture.shape))
        return torch.stack([function(mixture) for function in self.functions], dim=1)


def identity() -> Fake:
    return Fake(same=lambda x: x, negative=lambda x: -x)


class Net(nn.Module):
    """A small network with memory in time, whose output depends on where a segment is cut."""

    sources = ("low", "high")
    sample_rate = RATE
    audio_channels = 2

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(2, 4, 9, padding=4)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        scale = x.std((1, 2), keepdim=True) + 1e-5
        return (self.norm(self.conv(x / scale)) * scale).unflatten(1, (2, 2))


def song(length: int, channels: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(channels, length, generator=torch.Generator().manual_seed(seed))


def pieces(x: Tensor, sizes: Iterator[int]) -> Iterator[Tensor]:
    start = 0
    while start < x.shape[-1]:
        size = next(sizes)
        yield x[:, start : start + size]
        start += size


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(separation).failed == 0


# ---------------------------------------------------------------------------- nothing is changed


# Bit by bit, no tolerance: the weighted mean of equal numbers, taken in double precision, differs
# from them by far less than half a step of single precision, so rounding brings them back.
@pytest.mark.parametrize("overlap", [0, 0.1, 0.25, 0.5, 0.75, 0.9])
@pytest.mark.parametrize("shifts", [0, 1, 2, 5])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_an_identity_model_comes_back_exact(overlap: float, shifts: int, batch_size: int) -> None:
    separator = Separator(
        identity(), segment=1.0, overlap=overlap, shifts=shifts, batch_size=batch_size
    )
    # one sample, about a segment, about a segment and a hop, and longer
    for length in (1, 2, 10, 50, 99, 100, 101, 109, 110, 111, 174, 175, 176, 250, 999, 1000):
        x = song(length)
        expected = torch.stack([x, -x])
        assert torch.equal(separator(x), expected), f"{length} samples"


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("segment", [0.01, 0.02, 0.37, 600.0])
def test_any_segment_and_any_number_of_channels(channels: int, segment: float) -> None:
    x = song(321, channels)
    assert torch.equal(Separator(identity(), segment=segment)(x)[0], x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_give_float32(dtype: torch.dtype) -> None:
    x = song(321).to(dtype)
    y = Separator(identity(), segment=1.0)(x)
    assert y.dtype == torch.float32
    assert torch.equal(y[0], x.float())


def test_very_small_and_very_large_numbers_survive() -> None:
    x = song(321) * torch.logspace(-44, 37, 321)  # from denormal numbers to near the largest
    assert torch.equal(Separator(identity(), segment=1.0, overlap=0.9, shifts=3)(x)[0], x)


def test_silence_stays_silence() -> None:
    x = torch.zeros(2, 321)
    assert torch.equal(Separator(identity(), segment=1.0)(x)[0], x)


# ------------------------------------------------------------------------- what does not matter


@pytest.mark.parametrize("sizes", [[1], [7, 0, 13], [100], [75], [1000, 1], [0, 0, 333]])
@pytest.mark.parametrize("shifts", [0, 3])
@pytest.mark.parametrize("length", [1, 99, 100, 101, 1234])
def test_the_sizes_of_the_pieces_do_not_matter(sizes: list[int], shifts: int, length: int) -> None:
    x = song(length)
    separator = Separator(Net(), segment=1.0, shifts=shifts)
    streamed = list(separator.blocks(pieces(x, itertools.cycle(sizes))))
    assert all(block.shape[-1] for block in streamed)
    assert torch.equal(torch.cat(streamed, dim=-1), separator(x))


@pytest.mark.parametrize("shifts", [0, 3])
def test_the_batch_size_does_not_matter(shifts: int) -> None:
    x = song(1234)
    alone = Separator(Net(), segment=1.0, shifts=shifts)(x)
    for batch_size in (2, 3, 100):
        together = Separator(Net(), segment=1.0, shifts=shifts, batch_size=batch_size)(x)
        # a convolution may sum in another order for another batch: float32's own tolerance
        assert_close(together, alone)


def test_every_segment_in_a_batch_has_the_full_length() -> None:
    model = identity()
    Separator(model, segment=1.0, overlap=0.25, batch_size=4)(song(1234))
    # (1234 - 100) / 75 hops = 15.1: 16 segments and one that reaches back; the first goes alone
    assert model.heard == [(1, 2, 100), *[(4, 2, 100)] * 4]


def test_a_song_shorter_than_a_segment_is_heard_as_it_is() -> None:
    model = identity()
    Separator(model, segment=1.0)(song(37))
    assert model.heard == [(1, 2, 37)]


def test_no_segment_is_computed_for_what_is_covered() -> None:
    model = identity()
    Separator(model, segment=1.0, overlap=0.25)(song(100 + 75))
    assert len(model.heard) == 2


# --------------------------------------------------------------------------------- cross-fading


def test_the_crossfade_adds_up_to_one() -> None:
    for length, overlap_length in [(100, 25), (100, 50), (7, 3), (10, 0)]:
        weights = crossfade(length, overlap_length)
        both = weights[:overlap_length] + weights[length - overlap_length :]
        assert_close(both, torch.ones_like(both))
        assert (weights[overlap_length : length - overlap_length] == 1).all()


@pytest.mark.parametrize("overlap", [0.25, 0.5, 0.9])
@pytest.mark.parametrize("shifts", [0, 4])
def test_a_jump_between_segments_is_spread_over_the_overlap(overlap: float, shifts: int) -> None:
    # each segment comes back as a constant, 0, 1, 0, 1 ...: the output may not jump anywhere
    for length in (2000, 1990, 1975, 1937, 137):
        count = itertools.count()
        model = Fake(step=lambda x, c=count: torch.full_like(x, next(c) % 2))
        separator = Separator(model, segment=1.0, overlap=overlap, shifts=shifts)
        steps = separator(song(length)).diff(dim=-1).abs()
        # one ramp against another moves by 1 / (overlap + 1) a sample, many ramps and the sum of
        # the weights together by a little more
        assert 0 < steps.max() <= 3 / (separator.overlap_length + 1), f"{length} samples"


def test_without_overlap_each_segment_stands_alone() -> None:
    count = itertools.count()
    model = Fake(step=lambda x: torch.full_like(x, next(count)))
    y = Separator(model, segment=1.0, overlap=0)(song(350))
    assert y[0, 0].tolist() == [0] * 100 + [1] * 100 + [2] * 100 + [3] * 50


# --------------------------------------------------------------------------------------- shifts


def test_shifts_average_over_time_shifts() -> None:
    # an error that sits at the borders of segments: many passes leave less of it than one
    def border(x: Tensor) -> Tensor:
        y = x.clone()
        y[..., :5] += 1
        y[..., -5:] += 1
        return y

    x = song(2000)
    errors = []
    for shifts in (0, 2, 8):
        y = Separator(Fake(border=border), segment=1.0, overlap=0.1, shifts=shifts)(x)
        errors.append((y[0] - x)[:, 200:-200].square().mean().item())
    assert errors[1] < 0.8 * errors[0]
    assert errors[2] < 0.5 * errors[1]


def test_the_seed_decides_the_shifts() -> None:
    def run(seed: int) -> Tensor:
        return Separator(Net(), segment=1.0, shifts=2, seed=seed)(song(1000))

    state = torch.get_rng_state()
    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    assert torch.equal(torch.get_rng_state(), state), "the caller's random numbers were used"


def test_each_shift_is_one_pass_over_the_song() -> None:
    heard = []
    for shifts in (0, 1, 2, 4):
        model = identity()
        Separator(model, segment=1.0, shifts=shifts)(song(10_000))
        heard.append(len(model.heard))
    assert heard[0] == 133
    for shifts, count in zip((1, 2, 4), heard[1:], strict=True):
        assert abs(count - shifts * heard[0]) <= 2 * shifts


def test_shift_offsets_are_different_and_below_the_limit() -> None:
    offsets = shift_offsets(50, 50, seed=3)
    assert sorted(offsets) == list(range(50))


def test_hops_go_round_in_one_hop_length() -> None:
    hops = list(itertools.islice(hop_lengths(75, [3, 40, 11]), 31))
    assert hops[0] == 75 - 40
    assert all(sum(hops[i : i + 3]) == 75 for i in range(1, 28))
    assert min(hops) > 0


# ------------------------------------------------------------------------------------ residual


def test_mono_is_heard_with_sides_and_comes_back_as_mono() -> None:
    heard: list[Tensor] = []

    def same(x: Tensor) -> Tensor:
        heard.extend(x)
        return x

    model = Fake(same=same, louder_right=lambda x: x * torch.tensor([[1.0], [3.0]]))
    model.sample_rate = 8000  # 200 Hz and below have no sides
    mono = song(7000, channels=1).expand(2, -1)
    kept, uneven = Separator(model, segment=0.4)(mono)
    assert_close(kept, mono, rtol=0, atol=1e-6)
    assert torch.equal(uneven[0], uneven[1])
    for piece in heard:
        assert_close(piece.mean(0), piece.flip(0).mean(0))
        assert (piece[0] - piece[1]).square().mean() > 0.05 * piece.square().mean()
    heard.clear()
    stereo = mono.clone()
    stereo[1] *= 1.01
    kept, _ = Separator(model, segment=0.4, overlap=0)(stereo)
    assert torch.equal(heard[0], stereo[:, :3200]), "what has sides is heard as it is"
    assert_close(kept, stereo, rtol=0, atol=1e-6)
    heard.clear()
    Separator(model, segment=0.4, overlap=0, widen_mono=False)(mono)
    assert torch.equal(heard[0], mono[:, :3200])


def test_silence_before_mono_stays_silence() -> None:
    model = identity()
    model.sample_rate = 8000
    mono = torch.cat([torch.zeros(1, 800), song(2400, channels=1)], dim=1).expand(2, -1)
    assert not Separator(model, segment=0.4)(mono)[..., :800].abs().gt(1e-6).any()
    heard = separation.with_sides(mono, 8000)[:, :800]
    assert heard.abs().max() < 0.03 * mono.abs().max()  # the rise rings a little
    assert heard[:, :600].abs().max() < 1e-3


def test_sides_that_are_made_up_leave_the_bass_in_the_middle() -> None:
    rate = 8000
    t = torch.arange(rate) / rate
    for hertz, share in ((60.0, 1e-3), (1000.0, separation.SIDES_LEVEL**2)):
        mono = torch.sin(2 * torch.pi * hertz * t).expand(2, -1)
        left, right = separation.with_sides(mono, rate)
        assert_close((left + right) / 2, mono[0])
        ratio = ((left - right) / 2).square().sum() / mono[0].square().sum()
        assert ratio == pytest.approx(share, rel=0.05) if hertz > 200 else ratio < share


def test_the_residual_makes_the_sources_add_up_to_the_mixture() -> None:
    x = song(1234)
    for shifts in (0, 3):
        y = Separator(Net(), segment=1.0, shifts=shifts, residual="high")(x)
        # each source is rounded to single precision by itself
        assert_close(y.sum(0), x, atol=1e-6, rtol=0)
        plain = Separator(Net(), segment=1.0, shifts=shifts)(x)
        assert torch.equal(y[0], plain[0]), "the other sources must not change"
        assert not torch.allclose(plain.sum(0), x, atol=0.1)


def test_nothing_is_left_for_the_residual_of_a_perfect_model() -> None:
    x = song(1234)
    model = Fake(left=lambda x: x * 2, right=lambda x: -x)  # no rounding, so exact
    y = Separator(model, segment=1.0, residual="right")(x)
    assert torch.equal(y, torch.stack([x * 2, -x]))


# ----------------------------------------------------------------------------- stream and state


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("shifts", [0, 3])
def test_the_first_block_needs_one_segment_only(batch_size: int, shifts: int) -> None:
    model, taken = identity(), []

    def source() -> Iterator[Tensor]:
        for i, piece in enumerate(song(10_000).split(10, dim=-1)):
            taken.append(i)
            yield piece

    separator = Separator(model, segment=1.0, shifts=shifts, batch_size=batch_size)
    block = next(separator.blocks(source()))
    assert len(taken) == 11, "one segment of 100 samples is ten pieces; one tells that more comes"
    assert model.heard == [(1, 2, 100)]
    assert block.shape[-1] >= 75 - 50  # a hop, less the largest shift


def test_blocks_are_what_is_finished_and_no_less() -> None:
    blocks = [b.shape[-1] for b in Separator(identity(), segment=1.0).blocks(song(1000))]
    assert blocks == [75] * 12 + [100]


def endless(closed: list[bool]) -> Iterator[Tensor]:
    """A song without an end, which notes that it was closed."""
    try:
        while True:
            yield song(30)
    finally:
        closed.append(True)


@pytest.mark.parametrize("stop_after", [0, 1, 5])
def test_stopping_closes_the_input(stop_after: int) -> None:
    closed: list[bool] = []
    model = identity()
    blocks = Separator(model, segment=1.0).blocks(endless(closed))
    for _ in range(stop_after):
        next(blocks)
    heard = len(model.heard)
    blocks.close()  # type: ignore[attr-defined]
    assert len(model.heard) == heard == stop_after
    # an iterator that was never started holds nothing open
    assert closed == ([True] if stop_after else [])
    assert list(blocks) == []


def test_an_error_in_the_model_closes_the_input_and_reaches_the_caller() -> None:
    closed: list[bool] = []

    def fail(x: Tensor) -> Tensor:
        raise MemoryError("out of memory")

    with pytest.raises(MemoryError, match="out of memory"):
        list(Separator(Fake(broken=fail), segment=1.0).blocks(endless(closed)))
    assert closed == [True]


def held() -> int:
    """Bytes of all tensors that are alive."""
    storages = {}
    for thing in gc.get_objects():
        if type(thing) is Tensor:
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


@pytest.mark.parametrize(("shifts", "batch_size"), [(0, 1), (2, 1), (0, 3)])
def test_an_hour_holds_no_more_state_than_a_minute(shifts: int, batch_size: int) -> None:
    def most_held(seconds: int) -> tuple[int, int]:
        separator = Separator(
            identity(), segment=1.0, overlap=0.5, shifts=shifts, batch_size=batch_size
        )
        second, most, samples = song(RATE), 0, 0
        before = held()
        for i, block in enumerate(separator.blocks(second for _ in range(seconds))):
            samples += block.shape[-1]
            # looking at every object takes a while: at the start, and then now and again
            if i < 9 or i % 997 == 0 or samples == seconds * RATE:
                most = max(most, held() - before)
        assert samples == seconds * RATE
        return most, separator.segment_length

    minute, length = most_held(60)
    hour, _ = most_held(3600)
    assert minute > 0
    assert hour <= minute
    # and it is a matter of segments: of the input one and a batch; of the two stereo sources the
    # batch as it came, and in double precision the segment at work, its weighted sum and a tail
    segment = 4 * 2 * length
    assert hour <= segment * (1 + 2 * batch_size + 2 * batch_size + 2 * 2 * 3 + 2 * 2) + 10_000


def test_a_stopped_or_finished_song_leaves_nothing_behind() -> None:
    separator, x = Separator(identity(), segment=1.0), song(1000)
    gc.collect()
    before = held()
    blocks = separator.blocks(x)
    next(blocks)
    blocks.close()  # type: ignore[attr-defined]
    separator(x)
    gc.collect()
    assert held() == before


def test_progress_tells_samples_and_ends_with_all() -> None:
    told: list[tuple[int, int | None]] = []
    separator = Separator(identity(), segment=1.0)
    separator(song(1000), progress=lambda done, total: told.append((done, total)))
    assert told[0] == (75, 1000)
    assert told[-1] == (1000, 1000)
    told.clear()
    separator(song(1000).split(300, dim=-1), lambda done, total: told.append((done, total)))
    assert told[-1] == (1000, None)


# ------------------------------------------------------------------------------ torch, modules


def test_a_song_of_known_length_is_held_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[weakref.ref[Tensor]] = []
    blocks = Separator.blocks

    def watched(self: Separator, mixture: Tensor) -> Iterator[Tensor]:
        for block in blocks(self, mixture):
            assert all(before() is None for before in seen[:-1])
            seen.append(weakref.ref(block))
            yield block
            del block

    separator = Separator(Net(), segment=0.5)
    mixture = song(5 * RATE)
    wanted = separator(mixture.split(30, dim=-1))
    monkeypatch.setattr(Separator, "blocks", watched)
    assert torch.equal(separator(mixture), wanted)
    assert len(seen) > 5


def test_a_network_is_put_in_evaluation_mode() -> None:
    net = Net().train()
    running = net.norm.running_mean.clone()  # type: ignore[union-attr]
    Separator(net, segment=1.0)(song(1000))
    assert not net.training
    assert torch.equal(net.norm.running_mean, running)  # type: ignore[arg-type]


def test_the_callers_code_runs_outside_inference_mode() -> None:
    modes = []

    def note(x: Tensor) -> Tensor:
        modes.append(torch.is_inference_mode_enabled())
        return x

    for block in Separator(Fake(note=note), segment=1.0).blocks(song(400)):
        assert not torch.is_inference_mode_enabled()
        assert not block.is_inference()
        block += 1  # an inference tensor would not let itself be changed here
    assert all(modes)
    assert modes


def test_a_stream_may_leave_the_inference_mode_that_it_began_in() -> None:
    x = song(400)
    blocks = Separator(identity(), segment=1.0).blocks(x)
    with torch.inference_mode():
        first = next(blocks)
    assert torch.equal(torch.cat([first, *blocks], dim=-1)[0], x)


def test_the_default_device_does_not_matter() -> None:
    x = torch.cat([song(400), song(400)[:1].expand(2, -1)], dim=-1)  # stereo, then mono
    expected = Separator(Net(), segment=1.0, shifts=2)(x)
    net = Net()
    with torch.device("meta"):
        assert torch.equal(Separator(net, segment=1.0, shifts=2)(x), expected)


def test_gradients_of_the_mixture_stay_outside() -> None:
    assert not Separator(Net(), segment=1.0)(song(400).requires_grad_()).requires_grad


def test_the_mixture_is_left_as_it_was() -> None:
    x = song(400)
    before = x.clone()
    Separator(Fake(loud=lambda x: x.mul_(2)), segment=1.0, residual="loud")(x)
    assert torch.equal(x, before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("shifts", [0, 3])
def test_the_same_on_a_gpu(shifts: int) -> None:
    x = song(1234)
    on_cpu = Separator(Net(), segment=1.0, shifts=shifts)(x)
    for mixture in (x, x.cuda()):
        y = Separator(Net(), segment=1.0, shifts=shifts, batch_size=3, device="cuda")(mixture)
        assert y.device.type == "cpu"
        # cuDNN may take TF32 for convolutions, with ten bits of mantissa
        assert_close(y, on_cpu, atol=1e-2, rtol=1e-2)
    exact = Separator(identity(), segment=1.0, shifts=shifts, device="cuda")(x)
    assert torch.equal(exact[0], x)


# -------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segment": 0}, r"segment=0 s; choose more than 0 and at most 600 seconds"),
        ({"segment": -1.0}, r"segment=-1.0 s"),
        ({"segment": float("nan")}, r"segment=nan s"),
        ({"segment": 601.0}, r"at most 600 seconds"),
        ({"segment": 0.001}, r"less than a sample at 100 Hz"),
        ({"overlap": -0.1}, r"overlap=-0.1; choose a share of the segment from 0 to 0.9"),
        ({"overlap": 0.95}, r"overlap=0.95"),
        ({"overlap": float("nan")}, r"overlap=nan"),
        ({"batch_size": 0}, r"batch_size=0; choose a whole number >= 1"),
        ({"batch_size": 1.5}, r"batch_size=1.5; choose a whole number >= 1"),
        ({"batch_size": 1025}, r"batch_size=1025; choose at most 1024"),
        ({"shifts": 1.0}, r"shifts=1.0; choose a whole number >= 0"),
        ({"shifts": -1}, r"shifts=-1; choose a whole number >= 0"),
        ({"shifts": 51, "segment": 1.0}, r"leaves room for 50; choose fewer shifts"),
        ({"residual": "vocals"}, r"'vocals' is no source of this model; choose one of same, neg"),
        ({"device": "gpu"}, r"device='gpu' is unknown; choose cpu, cuda or mps"),
    ],
)
def test_arguments_outside_their_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Separator(identity(), **options)


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_refused(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=f"device='{device}' is not there on this machine"):
        Separator(identity(), device=device)


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        (torch.zeros(2, 0), "the mixture is empty"),
        (torch.zeros(1, 100), r"has 1 channels, 2 are needed; give \[2, L\]"),
        (torch.zeros(100), r"has the shape \[100\]; give \[C, L\]"),
        (torch.zeros(()), r"has the shape \[\]"),
        (torch.zeros(1, 2, 100), r"has the shape \[1, 2, 100\]"),
        (torch.zeros(0, 100), r"has the shape \[0, 100\]"),
        (torch.zeros(2, 100, dtype=torch.int16), "came as torch.int16; give floating-point"),
        (torch.zeros(2, 100, dtype=torch.complex64), "came as torch.complex64"),
        (torch.full((2, 100), float("nan")), "NaN or infinity at 0.0 s"),
        (torch.full((2, 100), float("inf")), "NaN or infinity at 0.0 s"),
    ],
)
def test_a_mixture_that_is_none_is_refused_before_any_work(mixture: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Separator(Net(), segment=1.0).blocks(mixture)
    with pytest.raises(ValueError, match=message):
        Separator(Net(), segment=1.0)(mixture)


def test_the_place_of_a_bad_sample_is_told() -> None:
    x = song(3000)
    x[1, 1234] = float("nan")
    separator = Separator(Net(), segment=1.0)
    with pytest.raises(ValueError, match=r"NaN or infinity at 12\.3 s"):
        separator.blocks(x)
    with pytest.raises(ValueError, match=r"NaN or infinity at 12\.3 s"):
        list(separator.blocks(x.split(77, dim=-1)))


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([], "the mixture is empty"),
        ([torch.zeros(2, 0)], "the mixture is empty"),
        ([torch.zeros(2, 10), torch.zeros(1, 10)], "has 1 channels, 2 are needed"),
        ([torch.zeros(2, 10).numpy()], "came as ndarray"),
        ([torch.zeros(2, 10), None], "came as NoneType"),
    ],
)
def test_chunks_that_are_none_are_refused(chunks: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(Separator(identity(), segment=1.0).blocks(chunks))


def test_a_model_that_gives_another_shape_is_refused() -> None:
    model = Fake(short=lambda x: x[..., :-1])
    with pytest.raises(ValueError, match=r"gave \[1, 1, 2, 99\] for \[1, 2, 100\], not \[1, 1, 2"):
        Separator(model, segment=1.0)(song(1000))


def test_a_model_that_gives_complex_numbers_is_refused() -> None:
    model = Fake(turned=lambda x: torch.complex(x, x))
    with pytest.raises(ValueError, match=r"gave complex numbers \(torch\.complex64\); give real"):
        Separator(model, segment=1.0)(song(1000))


def test_a_model_whose_sources_are_one_text_is_refused() -> None:
    model = identity()
    model.sources = "vocals"  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"'vocals'; .* names, for example \['vocals'\]"):
        Separator(model)


def test_a_model_that_gives_nonsense_is_refused() -> None:
    count = itertools.count()
    model = Fake(late=lambda x: x / 0 if next(count) == 4 else x)
    blocks = Separator(model, segment=1.0, overlap=0).blocks(song(1000))
    for _ in range(4):
        next(blocks)
    with pytest.raises(ValueError, match=r"not finite at 4\.0 s; its weights are damaged"):
        next(blocks)
