"""Files in and out. Every input is made here, with what the product itself installs."""

import doctest
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
import tracemalloc
import wave
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile as sf
import torch
from torch import Tensor
from torch.testing import assert_close

from moises_light import audio
from moises_light.audio import (
    FORMATS,
    AudioError,
    GrowingWriter,
    StemWriter,
    Writer,
    clip_gain,
    load,
    probe,
    save,
    stream,
)
from moises_light.metrics import sdr

RATE = 44_100


def tone(frequency: float, seconds: float, rate: int = RATE, level: float = 0.5) -> np.ndarray:
    """A sine `[n, 1]` that swells and fades, as codecs ring where it would start at once."""
    n = round(seconds * rate)
    window = np.clip(np.minimum(np.arange(n), np.arange(n)[::-1]) / (0.05 * rate), 0, 1)
    return (level * window * np.sin(2 * np.pi * frequency * np.arange(n) / rate))[:, None]


def stereo(seconds: float = 1.0, rate: int = RATE) -> np.ndarray:
    """440 Hz on the left, 1 kHz on the right, `[n, 2]`."""
    return np.hstack([tone(440, seconds, rate), tone(1000, seconds, rate, level=0.3)])


def noise(*shape: int, seed: int = 0, level: float = 0.1) -> Tensor:
    return level * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tensor(frames: np.ndarray) -> Tensor:
    return torch.from_numpy(frames.T.astype(np.float32).copy())


def encode(path: Path, frames: np.ndarray, rate: int, codec: str, layout: str = "stereo") -> Path:
    """Write with FFmpeg's encoders what soundfile cannot write."""
    with av.open(str(path), "w") as container:
        container.metadata.update({"title": "Jóga", "artist": "Björk", "album": "Homogenic"})
        track = container.add_stream(codec, rate=rate, layout=layout)
        interleaved = np.ascontiguousarray(frames.astype(np.float32).reshape(1, -1))
        frame = av.AudioFrame.from_ndarray(interleaved, format="flt", layout=layout)
        frame.sample_rate = rate
        context = track.codec_context
        context.bit_rate = 192_000
        context.open()
        resampler = av.AudioResampler(context.format, layout, rate, context.frame_size or 1024)
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(track.encode(part))
        container.mux(track.encode(None))
    return path


def levels(x: Tensor, frequency: float, rate: int = RATE) -> list[float]:
    """The amplitude at one frequency in the middle of each channel."""
    n = x.shape[-1]
    middle = x[:, n // 4 : n // 4 + n // 2].double()
    time = torch.arange(middle.shape[-1], dtype=torch.float64) / rate
    window = torch.hann_window(middle.shape[-1], dtype=torch.float64)
    wave = torch.exp(2j * torch.pi * frequency * time) * window
    return (2 * (middle * wave).sum(-1).abs() / window.sum()).tolist()


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(audio).failed == 0


# -------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("name", "container", "subtype"),
    [
        ("a.wav", "WAV", "PCM_16"),
        ("a.wav", "WAV", "PCM_U8"),
        ("a.wav", "WAV", "PCM_24"),
        ("a.wav", "WAV", "DOUBLE"),
        ("a.wav", "RF64", "FLOAT"),
        ("a.w64", "W64", "PCM_16"),
        ("a.aiff", "AIFF", "PCM_16"),
        ("a.caf", "CAF", "PCM_16"),
        ("a.au", "AU", "PCM_16"),
        ("a.flac", "FLAC", "PCM_16"),
        ("a.mp3", "MP3", "MPEG_LAYER_III"),
        ("a.ogg", "OGG", "VORBIS"),
        ("a.opus", "OGG", "OPUS"),
        ("no extension", "FLAC", "PCM_16"),
        ("wrong extension.raw", "FLAC", "PCM_16"),
        ("wrong extension.mp3", "WAV", "PCM_16"),
        ("Ünïcödé 日本 'quote\" $(x).flac", "FLAC", "PCM_16"),
    ],
)
def test_what_soundfile_reads(tmp_path: Path, name: str, container: str, subtype: str) -> None:
    rate = 48_000 if subtype == "OPUS" else RATE
    sf.write(tmp_path / "x", stereo(rate=rate), rate, format=container, subtype=subtype)
    path = (tmp_path / "x").rename(tmp_path / name)
    x = load(path)
    assert x.dtype == torch.float32
    assert x.shape == (2, RATE)
    lossy = subtype in ("MPEG_LAYER_III", "VORBIS", "OPUS", "PCM_U8")
    assert sdr(tensor(stereo()), x) > (20 if lossy else 70)
    info = probe(path)
    assert (info.seconds, info.sample_rate, info.channels) == (1.0, rate, 2)


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [
        ("a.m4a", "aac", 48_000),
        ("a.mp4", "aac", 44_100),
        ("a.mov", "alac", 44_100),
        ("a.aac", "aac", 44_100),
        ("a.webm", "libopus", 48_000),
        ("a.mka", "pcm_s24le", 44_100),
        ("a.wma", "wmav2", 44_100),
        ("a.ac3", "ac3", 48_000),
        ("a.wv", "wavpack", 44_100),
        ("a.mp4", "libmp3lame", 44_100),
    ],
)
def test_what_only_pyav_reads(tmp_path: Path, name: str, codec: str, rate: int) -> None:
    path = encode(tmp_path / name, stereo(2.0, rate), rate, codec)
    told: list[str] = []
    x = load(path, warn=told.append)
    assert told == []
    # encoders add up to a tenth of a second before or behind
    assert abs(x.shape[-1] - 2 * RATE) < RATE // 10
    left, right = levels(x, 440), levels(x, 1000)
    assert left[0] == pytest.approx(0.5, rel=0.1)
    assert right[1] == pytest.approx(0.3, rel=0.1)
    assert left[1] < 0.01
    assert right[0] < 0.01
    info = probe(path)
    assert info.seconds == pytest.approx(2.0, abs=0.2)
    assert (info.sample_rate, info.channels) == (rate, 2)
    if path.suffix not in (".aac", ".ac3"):  # these hold no tags
        assert dict(info.tags) == {"title": "Jóga", "artist": "Björk", "album": "Homogenic"}


def test_a_recording_of_unknown_length(tmp_path: Path) -> None:
    # browsers record webm as a live stream, which states no length
    path = tmp_path / "recording.webm"
    with av.open(str(path), "w", options={"live": "1"}) as container:
        track = container.add_stream("libopus", rate=48_000, layout="stereo")
        frames = np.ascontiguousarray(stereo(2.0, 48_000).astype(np.float32).reshape(1, -1))
        frame = av.AudioFrame.from_ndarray(frames, format="flt", layout="stereo")
        frame.sample_rate = 48_000
        resampler = av.AudioResampler(track.codec_context.format, "stereo", 48_000, 960)
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(track.encode(part))
        container.mux(track.encode(None))
    with av.open(str(path)) as container:
        assert not container.duration
    assert probe(path).seconds == pytest.approx(2.0, abs=0.1)
    assert load(path).shape[-1] / RATE == pytest.approx(2.0, abs=0.1)


def test_the_sound_of_a_video(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        picture = container.add_stream("mpeg4", rate=25)
        picture.width = picture.height = 64
        picture.pix_fmt = "yuv420p"
        sound = container.add_stream("aac", rate=RATE, layout="stereo")
        interleaved = np.ascontiguousarray(stereo().astype(np.float32).reshape(1, -1))
        frame = av.AudioFrame.from_ndarray(interleaved, format="flt", layout="stereo")
        frame.sample_rate = RATE
        resampler = av.AudioResampler("fltp", "stereo", RATE, 1024)
        for _ in range(25):
            image = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            container.mux(picture.encode(image))
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(sound.encode(part))
        container.mux(picture.encode(None))
        container.mux(sound.encode(None))
    assert levels(load(path), 440)[0] == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize("channels", [1, 2])
def test_a_file_that_changes_its_rate_comes_out_at_one(channels: int) -> None:
    parts = [(rate, stereo(1.0, rate).astype(np.float32)) for rate in (48_000, 32_000, RATE)]
    blocks = list(audio._resampled(parts, RATE, channels))
    assert {len(block) for block in blocks} == {channels}
    assert sum(block.shape[1] for block in blocks) == pytest.approx(3 * RATE, abs=4)


@pytest.mark.parametrize(("speed", "key"), [(0.5, 0), (1, 3), (0.75, -2), (1.25, 6), (0.5, 6)])
@pytest.mark.parametrize("channels", [1, 2])
def test_speed_and_key_are_independent(channels: int, speed: float, key: float) -> None:
    hertz = 440 * 2 ** (key / 12)
    tone = 0.3 * torch.sin(2 * torch.pi * 440 * torch.arange(5 * RATE + 77) / RATE)
    given = torch.stack([tone, -0.5 * tone])[:channels]
    read = torch.cat(list(audio.at_pace(given.split(1000, dim=1), RATE, speed, key)), dim=1)
    assert read.shape == (channels, round(given.shape[1] / speed))
    for c in range(1, channels):
        torch.testing.assert_close(read[c], -0.5 * read[0], rtol=0, atol=1e-6)
    peak = torch.fft.rfft(read[0] * torch.hann_window(read.shape[1])).abs().argmax()
    assert float(peak) * RATE / read.shape[1] == pytest.approx(hertz, rel=1e-3)
    # neither a hole nor a click until the last window
    inside = read[0, 2000:-4000]
    assert inside.unfold(0, 441, 441).amax(1).min() > 0.29
    assert inside.diff(n=2).abs().max() < 1.5 * 0.3 * (2 * torch.pi * hertz / RATE) ** 2


def test_a_click_stays_in_its_place_when_it_is_slow() -> None:
    given = torch.zeros(1, 8 * RATE)
    given[0, [2 * RATE, 6 * RATE]] = 1.0
    read = torch.cat(list(audio.at_pace([given], RATE, 0.5)), dim=1)[0]
    for seconds in (4, 12):
        around = read[round((seconds - 0.06) * RATE) : round((seconds + 0.06) * RATE)]
        assert around.abs().max() > 0.9


@pytest.mark.parametrize("speed", [0.5, 0.6, 0.75, 0.95, 1.1, 1.25])
@pytest.mark.parametrize("key", [-6, 0, 5])
def test_a_pace_gives_blocks_that_hold_something_to_the_end(speed: float, key: float) -> None:
    for frames in (812, 44_100, 264_600, 300_001, 353_333):
        tone = 0.5 * torch.sin(2 * torch.pi * 220 * torch.arange(frames) / RATE)[None]
        blocks = list(audio.at_pace(tone.split(264_600, dim=1), RATE, speed, key))
        assert all(block.shape[1] for block in blocks)
        read = torch.cat(blocks, dim=1)[0]
        assert len(read) == round(frames / speed)
        if frames > RATE:
            assert read[-2000:].abs().max() > 0.4, "the last window is not lost"


def test_a_pace_that_cannot_be_is_told_and_none_changes_nothing() -> None:
    given = torch.randn(2, 1000)
    assert torch.equal(torch.cat(list(audio.at_pace(given.split(300, dim=1), RATE)), 1), given)
    assert list(audio.at_pace([], RATE, 0.5)) == []
    assert sum(b.shape[1] for b in audio.at_pace([given[:1, :10]], RATE, 0.5)) == 20
    with pytest.raises(ValueError, match=r"speed of 0\.1; choose 0.25 to 4"):
        list(audio.at_pace([given], RATE, 0.1))
    with pytest.raises(ValueError, match="key 13 semitones higher; choose -12 to 12"):
        list(audio.at_pace([given], RATE, 1.0, 13))


def test_a_video_without_sound_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        picture = container.add_stream("mpeg4", rate=25)
        picture.width = picture.height = 64
        picture.pix_fmt = "yuv420p"
        image = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        container.mux(picture.encode(image))
        container.mux(picture.encode(None))
    with pytest.raises(AudioError, match=r"clip\.mp4 holds no audio that can be read; what can"):
        load(path)


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_101, 48_000, 96_000, 192_000])
def test_any_rate_becomes_the_one_that_is_wanted(tmp_path: Path, rate: int) -> None:
    sf.write(tmp_path / "a.wav", stereo(2.0, rate), rate, subtype="FLOAT")
    x = load(tmp_path / "a.wav")
    assert abs(x.shape[-1] - 2 * RATE) <= 1
    length = min(x.shape[-1], 2 * RATE)
    # from 48 kHz and the like nothing but the resampler's own error is left
    assert sdr(tensor(stereo(2.0))[:, :length], x[:, :length]) > 60
    assert abs(load(tmp_path / "a.wav", sample_rate=16_000).shape[-1] - 32_000) <= 1


def test_resampling_folds_nothing_back(tmp_path: Path) -> None:
    # 23 kHz at 48 kHz would come back as 21.1 kHz
    sf.write(tmp_path / "a.wav", tone(23_000, 2.0, 48_000), 48_000, subtype="FLOAT")
    assert load(tmp_path / "a.wav").abs().max() < 0.5 * 10 ** (-80 / 20)
    sf.write(tmp_path / "b.wav", tone(19_000, 2.0, 48_000), 48_000, subtype="FLOAT")
    assert levels(load(tmp_path / "b.wav"), 19_000)[0] == pytest.approx(0.5, rel=0.01)


def test_resampling_in_blocks_equals_resampling_at_once(tmp_path: Path) -> None:
    import soxr

    frames = noise(2, 200_000).T.numpy()
    sf.write(tmp_path / "a.wav", frames, 48_000, subtype="FLOAT")
    expected = torch.from_numpy(soxr.resample(frames, 48_000, RATE).T.copy())
    # the same filter; a stream may take another order of additions
    assert_close(load(tmp_path / "a.wav"), expected, atol=1e-5, rtol=0)


def test_mono_goes_to_both_sides_and_stereo_to_its_mean(tmp_path: Path) -> None:
    x = noise(1, 1000)
    save(tmp_path / "mono.wav", x, format="wav32f")
    assert torch.equal(load(tmp_path / "mono.wav"), x.expand(2, -1))
    x = noise(2, 1000)
    save(tmp_path / "stereo.wav", x, format="wav32f")
    assert_close(load(tmp_path / "stereo.wav", channels=1), x.mean(0, keepdim=True))


FRONT, BACK = ("FL", "FR"), ("BL", "BR")
_LAYOUTS = {
    "3.0": (*FRONT, "FC"),
    "quad": (*FRONT, *BACK),
    "5.0": (*FRONT, "FC", *BACK),
    "5.1": (*FRONT, "FC", "LFE", *BACK),
    "7.1": (*FRONT, "FC", "LFE", *BACK, "SL", "SR"),
}


@pytest.mark.parametrize("layout", list(_LAYOUTS))
@pytest.mark.parametrize("named", [True, False])
def test_every_speaker_goes_to_its_side(tmp_path: Path, layout: str, named: bool) -> None:
    speakers = _LAYOUTS[layout]
    for i, speaker in enumerate(speakers):
        frames = np.zeros((RATE, len(speakers)))
        frames[:, i : i + 1] = tone(440, 1.0)
        if named:
            path = encode(tmp_path / "a.mka", frames, RATE, "pcm_s24le", layout)
        else:  # a wav without a map of its channels
            path = tmp_path / "a.wav"
            sf.write(path, frames, RATE, subtype="PCM_24")
        left, right = (level / 0.5 for level in levels(load(path), 440))
        half = 0.5**0.5
        expected = {
            "FL": (1, 0),
            "FR": (0, 1),
            "FC": (half, half),
            "LFE": (0, 0),
            "BL": (half, 0),
            "BR": (0, half),
            "SL": (half, 0),
            "SR": (0, half),
        }[speaker]
        assert (left, right) == pytest.approx(expected, abs=0.01), speaker


@pytest.mark.parametrize("name", ["a.flac", "a.m4a"])
def test_a_part_is_what_the_whole_has_there(tmp_path: Path, name: str) -> None:
    frames = noise(2, 5 * 48_000).T.numpy()
    path = tmp_path / name
    if name.endswith("flac"):
        sf.write(path, frames, 48_000)
    else:
        encode(path, frames, 48_000, "aac")
    whole = load(path)
    part = load(path, start=1.5, seconds=2.0)
    assert part.shape[-1] == 2 * RATE
    expected = whole[:, round(1.5 * RATE) :][:, : 2 * RATE]
    # apart from the cut itself, at which the resampler hears silence on the other side
    assert sdr(expected[:, 500:-500], part[:, 500:-500]) > 80
    assert load(path, start=4.0, seconds=100.0).shape[-1] == whole.shape[-1] - 4 * RATE
    with pytest.raises(AudioError, match="ends before 60 s; choose an earlier start"):
        load(path, start=60)


def test_a_part_of_a_long_file_is_not_too_long(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.flac", np.zeros((RATE * 60, 2)), RATE)
    assert load(tmp_path / "a.flac", max_seconds=15, start=10, seconds=1).shape == (2, RATE)


@pytest.mark.parametrize("start", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("seconds", [0.5, 2.0, None])
def test_a_part_of_a_file_that_changes_its_rate_is_in_its_place(
    tmp_path: Path, start: float, seconds: float | None
) -> None:
    for rate in (22_050, RATE):
        save(tmp_path / f"{rate}.mp3", tensor(stereo(2.0, rate)), rate)
    path = tmp_path / "joined.mp3"
    path.write_bytes(b"".join((tmp_path / f"{r}.mp3").read_bytes() for r in (22_050, RATE)))
    whole = load(path)
    expected = whole[:, round(start * RATE) :][:, : seconds and round(seconds * RATE)]
    part = load(path, start=start, seconds=seconds)
    assert abs(part.shape[-1] - expected.shape[-1]) <= 1  # the resampler's rounding
    n = part.shape[-1]
    # apart from the cut itself, at which the resampler hears silence on the other side
    assert sdr(expected[:, 500 : n - 500], part[:, 500 : n - 500]) > 80


@pytest.mark.parametrize(("rate", "seconds"), [(RATE, 1e-6), (4000, 3e-5)])
def test_a_part_without_a_sample_says_so(tmp_path: Path, rate: int, seconds: float) -> None:
    save(tmp_path / "a.wav", noise(2, 5 * RATE))
    for start in (0.0, 2.0):
        with pytest.raises(AudioError, match=r"s of a\.wav hold no sample; choose more seconds"):
            load(tmp_path / "a.wav", rate, start=start, seconds=seconds)
    with pytest.raises(AudioError, match=r"a\.wav ends before 5 s"):
        load(tmp_path / "a.wav", rate, start=5.0, seconds=seconds)


def test_one_sample_is_a_song(tmp_path: Path) -> None:
    save(tmp_path / "a.wav", torch.full((2, 1), 0.5), format="wav32f")
    assert torch.equal(load(tmp_path / "a.wav"), torch.full((2, 1), 0.5))


# ----------------------------------------------------------------------------- bounds while reading


def flac_of_silence(path: Path, seconds: int) -> Path:
    with sf.SoundFile(path, "w", RATE, 2, format="FLAC") as file:
        second = np.zeros((RATE, 2), np.int16)
        for _ in range(seconds):
            file.write(second)
    return path


@pytest.mark.parametrize("name", ["a.flac", "a.mka"])
def test_a_small_file_that_decodes_to_a_long_song_is_refused(tmp_path: Path, name: str) -> None:
    path = flac_of_silence(tmp_path / "a.flac", 300)
    if name == "a.mka":  # the same through the other decoder
        with av.open(str(path)) as source, av.open(str(tmp_path / name), "w") as target:
            track = target.add_stream_from_template(source.streams.audio[0])
            for packet in source.demux(audio=0):
                if packet.dts is not None:
                    packet.stream = track
                    target.mux(packet)
        path = tmp_path / name
    assert path.stat().st_size < 100_000
    seen = 0

    def read() -> None:
        nonlocal seen
        for block in stream(path, max_seconds=150):
            seen += block.shape[-1]

    with pytest.raises(AudioError, match="longer than the 150 seconds that are allowed"):
        read()
    assert 145 * RATE < seen <= 150 * RATE


def test_reading_takes_the_memory_of_a_block(tmp_path: Path) -> None:
    def peak(seconds: int) -> int:
        path = flac_of_silence(tmp_path / f"{seconds}.flac", seconds)
        tracemalloc.start()
        samples = sum(block.shape[-1] for block in stream(path, sample_rate=48_000))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert samples == seconds * 48_000
        return most

    short, long = peak(10), peak(120)
    assert long < 1.1 * short
    assert long < 8 * 2**20


def test_every_block_holds_something(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", stereo(0.001, 384_000), 384_000)
    blocks = list(stream(tmp_path / "a.wav"))
    assert blocks
    assert all(block.shape[-1] for block in blocks)


def open_files() -> list[str]:
    folder = Path("/proc/self/fd")
    links = []
    for link in folder.iterdir():
        try:
            links.append(os.readlink(link))
        except OSError:  # the listing's own
            continue
    return links


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize("name", ["a.flac", "a.m4a"])
def test_stopping_closes_the_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("flac"):
        sf.write(path, noise(2, 10 * RATE).T.numpy(), RATE)
    else:
        encode(path, noise(2, 10 * RATE).T.numpy(), RATE, "aac")
    blocks = stream(path)
    next(blocks)
    assert str(path) in open_files()
    blocks.close()  # type: ignore[attr-defined]
    assert str(path) not in open_files()


# ------------------------------------------------------------------------ files that are not right


@pytest.mark.parametrize(
    ("name", "container", "subtype"),
    [
        ("a.mp3", "MP3", "MPEG_LAYER_III"),
        ("a.flac", "FLAC", "PCM_16"),
        ("a.wav", "WAV", "PCM_16"),
        ("a.aiff", "AIFF", "PCM_16"),
        ("a.ogg", "OGG", "VORBIS"),
    ],
)
def test_half_a_file_gives_half_the_song_and_says_so(
    tmp_path: Path, name: str, container: str, subtype: str
) -> None:
    whole = tmp_path / name
    sf.write(whole, noise(2, 8 * RATE).T.numpy(), RATE, format=container, subtype=subtype)
    data = whole.read_bytes()
    half = tmp_path / f"half {name}"
    half.write_bytes(data[: len(data) // 2])
    told: list[str] = []
    x = load(half, warn=told.append)
    assert 2 < x.shape[-1] / RATE < 5
    length = min(x.shape[-1], load(whole).shape[-1]) - 5000
    assert sdr(load(whole)[:, :length], x[:, :length]) > 60
    assert len(told) == 1
    assert told[0].startswith(f"half {name} is damaged: ")
    assert f"{x.shape[-1] / RATE:.1f} " in told[0]
    told.clear()
    load(whole, warn=told.append)
    assert told == []
    load(half, seconds=1.0, warn=told.append)
    assert told == [], "the part that was wanted is whole"


def test_a_damaged_middle_loses_that_and_says_so(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.webm", noise(2, 8 * 48_000).T.numpy(), 48_000, "libopus")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4000] = bytes(4000)
    path.write_bytes(data)
    told: list[str] = []
    x = load(path, warn=told.append)
    assert x.shape[-1] > 3 * RATE
    assert x.isfinite().all()
    assert len(told) == 1
    assert "a.webm is damaged" in told[0]


def test_a_damaged_byte_in_a_flac_costs_a_moment(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    sf.write(path, noise(2, 8 * RATE).T.numpy(), RATE)
    whole, data = load(path), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)
    told: list[str] = []
    x = load(path, warn=told.append)
    assert x.shape[-1] > 7.8 * RATE
    assert torch.equal(x[:, : 3 * RATE], whole[:, : 3 * RATE])
    assert torch.equal(x[:, -3 * RATE :], whole[:, -3 * RATE :])
    assert told == [f"a.flac is damaged: {x.shape[-1] / RATE:.1f} seconds of it could be read"]


def mp3(path: Path, seconds: float = 6.0, header: bool = True) -> bytes:
    """Loud behind its first third, at a variable rate; its first frame states the length."""
    frames = noise(2, round(seconds * RATE)).T.numpy()
    frames[: len(frames) // 3] = 0
    sf.write(path, frames, RATE, format="MP3", bitrate_mode="VARIABLE", compression_level=0.2)
    data = path.read_bytes()
    place = max(data.find(b"Xing"), data.find(b"Info"))
    first = next(i for i in range(place + 4, len(data)) if data[i : i + 2] == data[:2])
    path.write_bytes(data if header else data[first:])
    return path.read_bytes()


def test_an_mp3_that_lacks_its_last_seconds_says_so(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.mp3", noise(2, 120 * 16_000).T.numpy(), 16_000)
    data = (tmp_path / "a.mp3").read_bytes()
    (tmp_path / "a.mp3").write_bytes(data[: round(0.98 * len(data))])
    told: list[str] = []
    load(tmp_path / "a.mp3", warn=told.append)
    assert len(told) == 1
    assert re.fullmatch(
        r"a\.mp3 is damaged: only 117\.\d of its 120\.0 seconds can be read", told[0]
    )


def id3(size: int) -> bytes:
    return b"ID3\x03\0\0" + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0)) + bytes(size)


@pytest.mark.parametrize("kind", ["no header", "cover", "joined", "joined covers", "padded"])
def test_an_mp3_is_read_to_its_end(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.mp3"
    data = mp3(path, header=kind not in ("no header", "cover"))
    expected = 6.0
    if kind == "cover":
        data = id3(1_000_000) + data
    elif kind.startswith("joined"):
        between = id3(3000) if kind.endswith("covers") else b""
        data, expected = (between + data) * 2, 12.0
    elif kind == "padded":
        data += bytes(3000)
    path.write_bytes(data)
    told: list[str] = []
    x = load(path, warn=told.append)
    assert told == []
    assert x.shape[-1] / RATE == pytest.approx(expected, abs=0.1)  # with the encoder's padding
    assert probe(path).seconds == pytest.approx(expected, abs=0.15)
    assert probe(path).codec == "mp3"
    assert x[:, -RATE:].std() > 0.05


@pytest.mark.parametrize("length", [1, 100, 1152, 44_100, 100_000])
def test_an_mp3_has_the_samples_that_went_in(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a.mp3"
    sf.write(path, noise(2, length).T.numpy(), RATE)
    expected = torch.from_numpy(sf.read(path, dtype="float32")[0].T.copy())
    assert expected.shape == (2, length)
    # two decoders that round in another order
    assert_close(load(path), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_all_links_of_an_ogg_file_are_read(tmp_path: Path, subtype: str) -> None:
    data = b""
    for seed in range(2):
        frames = noise(2, 3 * 48_000, seed=seed).T.numpy()
        sf.write(tmp_path / "link", frames, 48_000, format="OGG", subtype=subtype)
        data += (tmp_path / "link").read_bytes()
    path = tmp_path / "a.ogg"
    path.write_bytes(data)
    told: list[str] = []
    x = load(path, 48_000, warn=told.append)
    assert told == []
    assert x.shape[-1] / 48_000 == pytest.approx(6.0, abs=0.02)
    assert probe(path).seconds == pytest.approx(6.0, abs=0.1)


@pytest.mark.parametrize("name", ["longer picture.mp4", "late.mka", "late.mkv"])
def test_audio_that_does_not_fill_its_file_is_whole(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    late = 5 * 48_000 if name.startswith("late") else 0
    with av.open(str(path), "w", options={"avoid_negative_ts": "0"}) as container:
        if not name.endswith("mka"):
            picture = container.add_stream("mpeg4", rate=25)
            picture.width = picture.height = 64
            picture.pix_fmt = "yuv420p"
        sound = container.add_stream("aac", rate=48_000, layout="stereo")
        interleaved = np.ascontiguousarray(stereo(2.0, 48_000).astype(np.float32).reshape(1, -1))
        frame = av.AudioFrame.from_ndarray(interleaved, format="flt", layout="stereo")
        frame.sample_rate = 48_000
        frame.pts = late
        resampler = av.AudioResampler("fltp", "stereo", 48_000, 1024)
        if not name.endswith("mka"):
            image = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            for _ in range(8 * 25):
                container.mux(picture.encode(image))
            container.mux(picture.encode(None))
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(sound.encode(part))
        container.mux(sound.encode(None))
    told: list[str] = []
    assert load(path, warn=told.append).shape[-1] / RATE == pytest.approx(2.0, abs=0.1)
    assert told == []
    if not name.endswith("mkv"):  # there the headers tell the whole file's length alone
        assert probe(path).seconds == pytest.approx(2.0, abs=0.1)


def test_damage_is_logged_if_nobody_listens(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sf.write(tmp_path / "a.wav", np.zeros((RATE, 2)), RATE)
    data = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(data[:50_000])
    load(tmp_path / "a.wav")
    assert "a.wav is damaged: 0.3 seconds of it could be read" in caplog.text


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000, 0x80000000])  # as FFmpeg, sox, arecord
def test_a_wav_from_a_pipe_is_whole(tmp_path: Path, size: int) -> None:
    sf.write(tmp_path / "a.wav", np.zeros((RATE, 2)), RATE)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    data[4:8] = min(size + 36, 0xFFFFFFFF).to_bytes(4, "little")
    data[40:44] = size.to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(data)
    told: list[str] = []
    assert load(tmp_path / "a.wav", warn=told.append).shape == (2, RATE)
    assert told == []


def test_a_wav_of_3_gb_that_is_cut_off_says_so(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", np.zeros((RATE, 2)), RATE)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    data[4:8], data[40:44] = (size.to_bytes(4, "little") for size in (3 * 10**9 + 36, 3 * 10**9))
    (tmp_path / "a.wav").write_bytes(data)
    told: list[str] = []
    load(tmp_path / "a.wav", warn=told.append)
    assert told == ["a.wav is damaged: 1.0 seconds of it could be read"]


def test_a_wav_whose_sizes_ran_over_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    sf.write(path, np.zeros((RATE, 2)), RATE)
    with path.open("r+b") as file:  # 4 GB more than 32 bits can tell, none of them on the disk
        file.truncate(path.stat().st_size + 2**32)
    told: list[str] = []
    load(path, warn=told.append)
    assert told == ["a.wav is damaged: 1.0 seconds of it could be read"]


def test_a_wav_that_was_never_finished_is_as_long_as_its_samples(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", np.zeros((RATE, 2)), RATE)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    data[4:8] = data[40:44] = bytes(4)  # as a recorder leaves them whose battery is empty
    (tmp_path / "a.wav").write_bytes(data)
    assert load(tmp_path / "a.wav").shape == (2, RATE)
    assert probe(tmp_path / "a.wav").seconds == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (np.nan, r"a\.wav holds NaN or infinity at 1\.5 s; export it again"),
        (np.inf, r"a\.wav holds NaN or infinity at 1\.5 s"),
        (20_000.0, r"a\.wav reaches 20000 times full scale; export it with full scale at 1\.0"),
    ],
)
def test_samples_that_are_none_are_refused(tmp_path: Path, sample: float, message: str) -> None:
    frames = np.zeros((2 * RATE, 2), np.float32)
    frames[round(1.5 * RATE), 1] = sample
    sf.write(tmp_path / "a.wav", frames, RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match=message):
        load(tmp_path / "a.wav")


@pytest.mark.parametrize(
    ("rate", "channels", "message"),
    [
        (1, 2, "has a sample rate of 1 Hz; 4000 to 384000 Hz can be read"),
        (2_000_000_000, 1, "has a sample rate of 2000000000 Hz"),
        (RATE, 16, "has 16 channels; 1 to 8 can be read"),
        (RATE, 1024, "has 1024 channels"),
    ],
)
def test_absurd_headers_are_refused(tmp_path: Path, rate: int, channels: int, message: str) -> None:
    sf.write(tmp_path / "a.wav", np.zeros((10, channels)), rate)
    for read in (probe, load):
        with pytest.raises(AudioError, match=message):
            read(tmp_path / "a.wav")


@pytest.mark.parametrize("name", ["a.wav", "a.aiff"])
def test_a_file_of_no_samples_is_called_empty(tmp_path: Path, name: str) -> None:
    sf.write(tmp_path / name, np.zeros((0, 2)), RATE)
    with pytest.raises(AudioError, match=f"{name} is empty: 0 samples"):
        load(tmp_path / name)


def test_a_wav_that_lost_all_its_samples_is_not_called_empty(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", np.zeros((RATE, 2)), RATE)
    (tmp_path / "a.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:44])
    with pytest.raises(AudioError, match=r"a\.wav holds no audio .* if all of the file is there"):
        load(tmp_path / "a.wav")


def test_playlists_open_nothing(tmp_path: Path) -> None:
    secret = tmp_path / "secret.mp3"
    sf.write(secret, stereo(), RATE, format="MP3")
    playlists = {
        "m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n",
        "ffconcat": f"ffconcat version 1.0\nfile '{secret}'\n",
        "sdp": "v=0\nc=IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n",
        "mpd": "<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'/>",
        "xspf": f"<playlist><track><location>file://{secret}</location></track></playlist>",
    }
    for kind, text in playlists.items():
        for name in (f"list.{kind}", "song.mp3", "song.m4a"):
            path = tmp_path / name
            path.write_text(text)
            for read in (probe, load):
                with pytest.raises(AudioError, match=f"{name} holds no audio that can be read"):
                    read(path)


@pytest.mark.skipif(os.name == "nt", reason="such names are not allowed there")
def test_a_name_that_looks_like_an_address_is_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    encode(tmp_path / "x.m4a", stereo(), RATE, "aac").rename("concat:a.m4a")
    assert load("concat:a.m4a").shape[-1] >= RATE
    with pytest.raises(AudioError, match=r"there is no file http:/127\.0\.0\.1/a\.mp3"):
        load("http://127.0.0.1/a.mp3")


@pytest.mark.parametrize(
    "data",
    [b"hello " * 1000, b"\x89PNG\r\n\x1a\n" + bytes(1000), b"PK\x03\x04" + bytes(1000), b"RIFF"],
    ids=["text", "png", "zip", "riff"],
)
@pytest.mark.parametrize("name", ["a.mp3", "a.raw", "a", "a.txt"])
def test_what_is_no_audio_is_refused(tmp_path: Path, data: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(data)
    for read in (probe, load):
        with pytest.raises(AudioError, match=f"{name} holds no audio that can be read; what can"):
            read(tmp_path / name)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    cases = {
        tmp_path / "none.wav": "there is no file .*none.wav",
        tmp_path: "is a folder; give a file",
        tmp_path / "empty.wav": "empty.wav is empty",
        tmp_path / "nul\0.wav": "there is no file|cannot be opened",
        tmp_path / ("x" * 400): "there is no file|cannot be opened",
    }
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.wav")
        cases[tmp_path / "pipe.wav"] = "there is no file .*pipe.wav"
    for path, message in cases.items():
        for read in (probe, load):
            with pytest.raises(AudioError, match=message):
                read(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 3}, "channels=3; choose 1"),
        ({"sample_rate": 0}, "a rate of 0 Hz; choose a whole number from 4000 to 384000"),
        ({"sample_rate": float("inf")}, "a rate of inf Hz"),
        ({"sample_rate": float("nan")}, "a rate of nan Hz"),
        ({"sample_rate": 22_050.5}, "a rate of 22050.5 Hz"),
        ({"sample_rate": "22050"}, "a rate of '22050' Hz"),
        ({"max_seconds": float("nan")}, "max_seconds=nan; choose more than 0, or None"),
        ({"start": -1}, "start=-1 s; choose 0 or more"),
        ({"start": float("inf")}, "start=inf s; choose 0 or more"),
        ({"seconds": 0}, "seconds=0; choose more than 0"),
        ({"seconds": float("nan")}, "seconds=nan"),
        ({"seconds": float("inf")}, "seconds=inf; choose more than 0, or None"),
    ],
)
def test_arguments_outside_their_range_are_refused(
    tmp_path: Path, options: dict, message: str
) -> None:
    save(tmp_path / "a.wav", noise(2, 100))
    with pytest.raises(ValueError, match=message):
        stream(tmp_path / "a.wav", **options)


FUZZ = """
    import random, sys
    from pathlib import Path
    from moises_light.audio import AudioError, load, probe

    random.seed(0)
    read = refused = 0
    for path in sorted(Path(sys.argv[1]).iterdir()):
        whole = path.read_bytes()
        for _ in range(12):
            data = bytearray(whole)
            first = random.choice([64, 512, len(data)])  # headers first of all
            for _ in range(random.choice([1, 8, 64])):
                data[random.randrange(min(first, len(data)))] = random.randrange(256)
            if random.random() < 0.3:
                del data[random.randrange(len(data)) :]
            bad = Path(sys.argv[2], "bad" + path.suffix)
            bad.write_bytes(data)
            for look in (probe, lambda p: load(p, max_seconds=20, warn=lambda text: None)):
                try:
                    look(bad)
                    read += 1
                except AudioError:
                    refused += 1
    print(read, refused)
"""


def test_damaged_bytes_never_crash_or_surprise(tmp_path: Path) -> None:
    """In a process of its own, so that a crash of a decoder would be seen as one."""
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.mkdir()
    bad.mkdir()
    frames = stereo(0.5, 48_000)
    for name in ("a.wav", "a.flac", "a.mp3", "a.ogg", "a.aiff", "a.caf"):
        sf.write(good / name, frames, 48_000)
    for name, codec in [
        ("a.m4a", "aac"),
        ("a.aac", "aac"),
        ("a.webm", "libopus"),
        ("a.wma", "wmav2"),
        ("a.ac3", "ac3"),
        ("a.wv", "wavpack"),
        ("b.mov", "alac"),
    ]:
        encode(good / name, frames, 48_000, codec)
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FUZZ), str(good), str(bad)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    read, refused = map(int, result.stdout.split())
    assert read > 50
    assert refused > 50


# -------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("format", list(FORMATS))
def test_what_is_written_comes_back(tmp_path: Path, format: str) -> None:
    x = noise(2, 3 * RATE + 17)
    path = tmp_path / f"a.{FORMATS[format]}"
    assert save(path, x, format=format) == 1.0
    y = load(path)
    assert y.shape == x.shape
    if format == "wav32f":
        assert torch.equal(y, x)
    elif format == "mp3":
        assert sdr(x, y) > 8  # noise is the hardest there is
    else:
        bits = 24 if "24" in format else 16
        # half a step; in 24 bits single precision itself is of that size
        assert (y - x).abs().max() <= 0.5 * 2.0 ** (1 - bits) + 1e-8
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("format", ["wav16", "wav24", "flac", "flac24"])
def test_whole_numbers_survive(tmp_path: Path, format: str) -> None:
    x = (torch.arange(-32_768, 32_768) / 32_768).repeat(2, 1)
    path = tmp_path / f"a.{FORMATS[format]}"
    save(path, x, format=format)
    assert torch.equal(load(path), x)


def test_rounding_has_no_bias(tmp_path: Path) -> None:
    x = noise(1, 1_000_000)
    save(tmp_path / "a.wav", x)
    error = (load(tmp_path / "a.wav", channels=1) - x) * 32_768
    assert abs(error.mean()) < 0.005  # of a step; cutting off would give half a step
    assert error.std() == pytest.approx((1 / 12) ** 0.5, rel=0.01)


def test_the_format_follows_the_extension(tmp_path: Path) -> None:
    x = noise(2, 1000)
    for name, expected in [("a.wav", "PCM_16"), ("a.FLAC", "PCM_16"), ("a.mp3", "MPEG_LAYER_III")]:
        save(tmp_path / name, x)
        assert sf.info(tmp_path / name).subtype == expected


@pytest.mark.parametrize("format", list(FORMATS))
def test_what_would_clip_is_turned_down_as_a_whole(tmp_path: Path, format: str) -> None:
    x = noise(2, RATE, level=1.0)
    x *= 2.5 / x.abs().max()
    path = tmp_path / f"a.{FORMATS[format]}"
    gain = save(path, x, format=format)
    assert gain == pytest.approx(1.0 if format == "wav32f" else 0.4)
    assert sdr(x * gain, load(path)) > (8 if format == "mp3" else 80)


def test_full_scale_is_not_turned_down() -> None:
    assert clip_gain(1.0, "wav16") == 1.0


@pytest.mark.parametrize("format", list(FORMATS))
def test_tags_come_back(tmp_path: Path, format: str) -> None:
    path = tmp_path / f"a.{FORMATS[format]}"
    tags = {"title": "Jóga 日本", "artist": "Björk", "album": "Homogenic"}
    save(path, noise(2, RATE), format=format, tags=tags)
    assert dict(probe(path).tags) == tags
    save(path, noise(2, RATE), format=format, tags={"title": "two\nlines\0" + "x" * 500})
    assert probe(path).tags["title"] == "two lines" + "x" * 191
    save(path, noise(2, RATE), format=format)
    assert dict(probe(path).tags) == {}


def test_a_tag_that_is_none_is_left_out(tmp_path: Path) -> None:
    save(tmp_path / "a.flac", noise(2, 100), tags={"title": "Go", "artist": None})
    assert probe(tmp_path / "a.flac").tags == {"title": "Go"}


def test_long_tags_of_other_scripts_come_back_from_an_mp3(tmp_path: Path) -> None:
    """As others read them, too: with LAME's own they were cut, or Latin-1."""
    path = tmp_path / "a.mp3"
    tags = {
        "title": "Für Elise, aber wirklich ganz lang",
        "artist": "Björk",
        "album": "日本の音楽、とても長い題名のアルバム 🎚",
    }
    audio = noise(2, 2 * RATE)
    save(path, audio, tags=tags)
    assert dict(probe(path).tags) == tags
    with av.open(str(path)) as container:
        assert {key: container.metadata.get(key) for key in tags} == tags
    assert sf.SoundFile(path).title == tags["title"]
    assert load(path).shape == audio.shape
    assert os.listdir(tmp_path) == ["a.mp3"]
    save(tmp_path / "b.mp3", audio)
    assert path.read_bytes().endswith((tmp_path / "b.mp3").read_bytes())


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    path.write_text("old")
    with Writer(path) as writer:
        for _ in range(10):
            writer.write(noise(2, 1000))
            assert path.read_text() == "old"
    assert load(path).shape == (2, 10_000)
    assert writer.peak > 0.1


def test_a_file_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    path.write_text("old")

    def write_half() -> None:
        with Writer(path) as writer:
            writer.write(noise(2, 1000))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.flac"]


def test_a_wav_beyond_its_format_is_refused_or_becomes_rf64(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audio, "MAX_WAV", 40_000)
    x = noise(2, 12_000)
    assert save(tmp_path / "a.wav", x, format="wav16") == 1.0
    assert sf.info(tmp_path / "a.wav").format == "RF64"
    assert (load(tmp_path / "a.wav") - x).abs().max() < 2**-15

    def write(writer: Writer | GrowingWriter) -> None:
        with writer:
            for block in x.split(1000, dim=-1):
                writer.write(block)

    with pytest.raises(AudioError, match=r"b\.wav would pass the 4 GB that wav can hold; use flac"):
        write(Writer(tmp_path / "b.wav"))
    with pytest.raises(AudioError, match=r"c\.wav would pass the 4 GB that wav can hold"):
        write(GrowingWriter(tmp_path / "c.wav"))
    assert not (tmp_path / "b.wav").exists()
    assert load(tmp_path / "c.wav").shape == (2, 10_000)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: save(f / "a.wav", torch.zeros(10)), r"came as \[10\]; give floating-point"),
        (lambda f: save(f / "a.wav", torch.zeros(2, 10).int()), "give floating-point"),
        (lambda f: save(f / "a.wav", torch.full((2, 10), torch.nan)), "holds NaN or infinity"),
        (lambda f: save(f / "a.xyz", torch.zeros(2, 10)), r"does not tell its format; end it in"),
        (lambda f: save(f / "a", torch.zeros(2, 10), format="aac"), "'aac'; choose one of wav16"),
        (lambda f: save(f / "a.wav", torch.zeros(2, 10), tags={"mood": "x"}), "tag 'mood' is unk"),
        (lambda f: save(f / "no" / "a.wav", torch.zeros(2, 10)), "there is no folder"),
        (lambda f: save(f / "a.mp3", torch.zeros(2, 10), 12_345), "mp3 has no 12345 Hz; choose"),
        (lambda f: Writer(f / "a.wav", 0), "a rate of 0 Hz; choose a whole number from 4000 to"),
        (lambda f: Writer(f / "a.wav", "44100"), "a rate of '44100' Hz"),
        (lambda f: StemWriter(f / "s", ["a"], sample_rate=44_100.5), "a rate of 44100.5 Hz"),
        (lambda f: GrowingWriter(f / "a.wav", 0), "a rate of 0 Hz"),
        (lambda f: GrowingWriter(f / "a.wav", channels=0), "cannot write a.wav: 0 channels"),
        (
            lambda f: save(f / "a.wav", torch.zeros(2, 10), tags={"title": 3}),
            "the tag title is 3; give text, or None",
        ),
        (lambda f: StemWriter(f / "s", ["a"], "mp3", 96_000), "mp3 has no 96000 Hz; choose"),
        (lambda f: save(f / "a.mp3", torch.zeros(6, 10)), "cannot write a.mp3: 6 channels, and 2"),
        (
            lambda f: save(f / "a.wav", torch.zeros(10, 2)),
            r"10 channels, and 8 .* as \[L, C\]",
        ),
        (lambda f: save(f / "a.flac", torch.zeros(2, 0)), "a.flac: no samples, and only wav"),
        (lambda f: save(f / "a.mp3", torch.zeros(2, 0)), "a.mp3: no samples, and only wav"),
        (lambda f: StemWriter(f / "s", ["a", "a"]), "give different names"),
        (lambda f: StemWriter(f / "s", []), "give different names"),
        (lambda f: StemWriter(f / "s", ["../a"]), r"'\.\./a' is no name for a file"),
        (lambda f: StemWriter(f / "s", ["a\nb"]), r"'a\\nb' is no name for a file"),
        (lambda f: StemWriter(f / "s", ["a"], "ogg"), "no format is called 'ogg'"),
        (lambda f: StemWriter(f / "s", ["a"], tags={"x": "y"}), "tag 'x' is unknown"),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_nothing(
    tmp_path: Path, call, message: str
) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(AudioError, match="cannot write song: not a directory"):
        StemWriter(tmp_path / "file" / "out" / "song", ["a"])
    (tmp_path / "gone").mkdir()
    writer = Writer(tmp_path / "gone" / "a.wav")
    writer.write(torch.zeros(2, 10))
    shutil.rmtree(tmp_path / "gone")
    with pytest.raises(AudioError, match=r"cannot write a\.wav: there is no folder .*gone"):
        writer.close()


def test_a_rate_of_whole_hertz_may_be_a_float(tmp_path: Path) -> None:
    with StemWriter(tmp_path, ["a"], "flac", 44_100.0) as stems:
        stems.write(torch.zeros(1, 2, 10))
    with GrowingWriter(tmp_path / "b.wav", np.float64(8000)) as writer:
        writer.write(torch.zeros(2, 10))
    assert [probe(tmp_path / name).sample_rate for name in ("a.flac", "b.wav")] == [44_100, 8000]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_or_a_device_is_refused_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "a.wav"
    os.mkfifo(pipe)
    for call in (
        lambda: Writer(pipe),
        lambda: GrowingWriter(pipe),
        lambda: StemWriter(tmp_path, ["a"]),
        lambda: Writer("/dev/null", format="wav16"),
    ):
        with pytest.raises(AudioError, match=r"cannot write .*: it is a pipe or a device; name a"):
            call()
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


@pytest.mark.skipif(os.name == "nt", reason="needs rights for links")
def test_a_link_stays_and_what_it_points_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link, target = tmp_path / "a.mp3", tmp_path / "disk" / "b.mp3"
    link.symlink_to(Path("disk") / "b.mp3")
    save(link, noise(2, 1000), tags={"title": "Go"})
    assert link.is_symlink()
    assert load(target).shape[-1] == 1000
    assert {path.name for path in tmp_path.rglob("*")} == {"a.mp3", "disk", "b.mp3"}


CLOSED = """
    import os, sys
    from pathlib import Path
    import torch
    from moises_light.audio import AudioError, StemWriter, save

    folder = Path(sys.argv[1])
    if os.geteuid() == 0:
        os.setuid(65534)  # whom the modes of folders bind
    for name in ("read", "none"):
        for call in (
            lambda: save(folder / name / "A.wav", torch.zeros(2, 10)),
            lambda: StemWriter(folder / name / "out" / "song", ["a"]),
        ):
            try:
                call()
            except AudioError as error:
                print(error)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs the modes of folders")
def test_a_folder_closed_to_writing_is_told() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        folder = Path(name)
        folder.chmod(0o755)
        for mode, part in ((0o555, "read"), (0, "none")):
            (folder / part).mkdir()
            (folder / part).chmod(mode)
        command = [sys.executable, "-c", textwrap.dedent(CLOSED), name]
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[1]
        )
        for part in ("read", "none"):
            (folder / part).chmod(0o755)
    closed = "the disk may be full or the folder closed to writing"
    said = [f"cannot write A.wav: {closed}", "cannot write song: permission denied"]
    assert (result.stdout.splitlines(), result.stderr) == (said * 2, "")


# -------------------------------------------------------------------------------- growing files


def test_a_growing_wav_can_be_read_at_any_time(tmp_path: Path) -> None:
    path, x = tmp_path / "a.wav", noise(2, 10_000)
    with GrowingWriter(path) as writer:
        with wave.open(str(path)) as reader:
            assert reader.getnframes() == 0
        for i, block in enumerate(x.split(1000, dim=-1)):
            writer.write(block)
            told: list[str] = []
            y = load(path, warn=told.append)
            assert (y - x[:, : 1000 * (i + 1)]).abs().max() <= 2**-16
            assert told == []
            data = path.read_bytes()
            assert len(data) == 44 + 4 * 1000 * (i + 1)
            assert int.from_bytes(data[40:44], "little") == len(data) - 44
            assert int.from_bytes(data[4:8], "little") == len(data) - 8
    assert writer.frames == 10_000


def test_a_growing_wav_cuts_off_and_tells_the_peak(tmp_path: Path) -> None:
    with GrowingWriter(tmp_path / "a.wav", 22_050, 1) as writer:
        writer.write(torch.tensor([[2.0, -2.0, 0.5]]))
    assert writer.peak == 2.0
    x = load(tmp_path / "a.wav", 22_050, channels=1)
    assert_close(x, torch.tensor([[32_767 / 32_768, -1.0, 0.5]]))
    with pytest.raises(ValueError, match=r"a block has 2 channels, those before had 1"):
        GrowingWriter(tmp_path / "b.wav", 22_050, 1).write(torch.zeros(2, 3))
    with pytest.raises(AudioError, match=r"cannot write a\.wav: it was closed"):
        writer.write(torch.zeros(1, 3))


# ---------------------------------------------------------------------------------------- stems


def blocks(x: Tensor, *sizes: int) -> Iterator[Tensor]:
    yield from x.split(list(sizes), dim=-1)


@pytest.mark.parametrize("format", list(FORMATS))
def test_stems_are_turned_down_by_one_gain(tmp_path: Path, format: str) -> None:
    names, x = ["vocals", "drums", "bass", "other"], noise(4, 2, RATE)
    x[1] *= 4.0 / x[1].abs().max()  # one loud stem decides for all
    folder = tmp_path / "a" / "song"
    with StemWriter(folder, names, format) as stems:
        for block in blocks(x, 1, 30_000, RATE - 30_001):
            stems.write(block)
            assert stems.paths == {}
    assert stems.peak == pytest.approx(4.0)
    assert stems.gain == pytest.approx(1.0 if format == "wav32f" else 0.25)
    assert list(stems.paths) == names
    assert sorted(folder.iterdir()) == sorted(stems.paths.values())
    y = torch.stack([load(path) for path in stems.paths.values()])
    assert y.shape == x.shape
    assert (sdr(x * stems.gain, y) > (8 if format == "mp3" else 50)).all()
    if format == "wav32f":
        assert torch.equal(y, x)
    elif format != "mp3":
        # what added up to the song still does, but for a step of rounding for each stem
        assert (y.sum(0) - x.sum(0) * stems.gain).abs().max() <= 4 * 2**-16


def test_stems_never_lie_on_the_disk_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before they appear; else a long song could fill the disk when all the work is done."""
    x, most = noise(4, 2, RATE), 0

    def look(_: float) -> None:
        nonlocal most
        most = max(most, sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file()))

    with StemWriter(tmp_path / "song", ["a", "b", "c", "d"], "wav32f") as stems:
        stems.write(x)
        stems.finish(look)
    one = RATE * 2 * 4
    assert 4 * one < most < 5.1 * one


def test_quiet_stems_are_left_as_they_are(tmp_path: Path) -> None:
    with StemWriter(tmp_path, ["a"], "flac") as stems:
        stems.write(noise(1, 2, 1000))
    assert stems.gain == 1.0


def test_stems_have_tags_and_file_names(tmp_path: Path) -> None:
    tags = {"title": "Jóga", "artist": "Björk"}
    files = {"vocals": "Björk - Jóga - vocals (paper_small)", "drums": "...drums"}
    with StemWriter(tmp_path, files, "mp3", tags=tags) as stems:
        stems.write(noise(2, 2, RATE))
    assert {k: p.stem for k, p in stems.paths.items()} == files
    assert dict(probe(stems.paths["vocals"]).tags) == {"title": "Jóga (vocals)", "artist": "Björk"}


def test_what_a_killed_writer_left_goes_after_a_day(tmp_path: Path) -> None:
    left = []
    for age in (0, 2 * 86400):
        stems = StemWriter(tmp_path, ["a", "b"])
        stems.write(noise(2, 2, RATE))
        left.append(stems._work)
        for path in (*stems._work.iterdir(), stems._work):
            os.utime(path, (time.time() - age,) * 2)
    with StemWriter(tmp_path, ["a", "b"]) as stems:
        stems.write(noise(2, 2, RATE))
    assert left[0].exists(), "somebody may be at it"
    assert not left[1].exists()


def test_finishing_tells_how_far_it_is_and_the_gain(tmp_path: Path) -> None:
    shares: list[float] = []
    with StemWriter(tmp_path, ["a", "b"], "flac") as stems:
        stems.write(torch.full((2, 2, 200_000), 2.0))
        assert stems.finish(shares.append) == 0.5
        assert stems.paths["a"].exists()
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert len(shares) > 4


class Stop(Exception):
    pass


@pytest.mark.parametrize("when", ["before", "between", "encoding"])
@pytest.mark.parametrize("existed", [True, False])
def test_stems_that_are_stopped_leave_nothing(tmp_path: Path, when: str, existed: bool) -> None:
    folder = tmp_path / "artist" / "song"
    if existed:
        folder.mkdir(parents=True)
        (folder / "a.flac").write_text("old")

    def stop(share: float) -> None:
        if share > 0.6:  # in the second stem
            raise Stop

    def run() -> None:
        with StemWriter(folder, ["a", "b"], "flac") as stems:
            if when == "before":
                raise Stop
            stems.write(noise(2, 2, 200_000))
            if when == "between":
                raise Stop
            stems.finish(stop)

    with pytest.raises(Stop):
        run()
    if existed:
        assert [p.name for p in folder.iterdir()] == ["a.flac"]
        assert (folder / "a.flac").read_text() == "old"
    else:
        assert list(tmp_path.iterdir()) == []


def test_if_one_stem_cannot_be_replaced_none_is(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("old")
    (tmp_path / "b.wav").mkdir()
    (tmp_path / "b.wav" / "mine").touch()

    def run() -> None:
        with StemWriter(tmp_path, ["a", "b"]) as stems:
            stems.write(noise(2, 2, 1000))

    with pytest.raises(AudioError, match=r"cannot write b\.wav: there is a folder of that name"):
        run()
    assert (tmp_path / "a.wav").read_text() == "old"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.wav", "b.wav", "mine"]


OLD_STEMS = {"a.wav": b"old a", "b.wav": b"old b"}
"""Files that were there before, and what they hold."""


def write_old_stems(folder: Path) -> None:
    for name, data in OLD_STEMS.items():
        (folder / name).write_bytes(data)


def only_old_stems(folder: Path) -> bool:
    """Whether a folder holds them as they were, and nothing else."""
    return {p.name: p.is_file() and p.read_bytes() for p in folder.iterdir()} == OLD_STEMS


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), KeyboardInterrupt()])
@pytest.mark.parametrize("at", range(4))
def test_stems_that_cannot_appear_together_do_not_appear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, error: BaseException
) -> None:
    write_old_stems(tmp_path)
    replace, calls = os.replace, 0

    def fail(source: Path, target: Path) -> None:
        nonlocal calls
        if target.name.endswith(".old") or target.parent == tmp_path:
            calls += 1
            if calls == at + 1:
                raise error
        replace(source, target)

    stems = StemWriter(tmp_path, ["a", "b"])
    stems.write(noise(2, 2, 1000))
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises((AudioError, KeyboardInterrupt)):
        stems.finish()
    assert only_old_stems(tmp_path)


@pytest.mark.parametrize("first", range(1, 6))
@pytest.mark.parametrize("later", range(1, 4))
def test_stems_that_were_there_survive_a_second_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int, later: int
) -> None:
    write_old_stems(tmp_path)
    replace, calls = os.replace, 0

    def fail(source: Path, target: Path) -> None:
        nonlocal calls
        calls += source.suffix != ".part"
        if source.suffix != ".part" and calls in (first, first + later):
            raise KeyboardInterrupt
        replace(source, target)

    def run() -> None:
        with StemWriter(tmp_path, ["a", "b", "c"]) as stems:
            stems.write(noise(3, 2, 1000))
            monkeypatch.setattr(os, "replace", fail)

    with pytest.raises(KeyboardInterrupt):
        run()
    assert only_old_stems(tmp_path)


@pytest.mark.parametrize("failures", [1, 2, 99])
def test_stems_that_cannot_be_put_back_are_kept(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failures: int,
) -> None:
    (tmp_path / "a.wav").write_text("old")
    replace, left = os.replace, failures

    def fail(source: Path, target: Path) -> None:
        nonlocal left
        if target == tmp_path / "a.wav" and left:
            left -= 1
            raise PermissionError(13, "Permission denied")
        replace(source, target)

    def run() -> None:
        with StemWriter(tmp_path, ["a"]) as stems:
            stems.write(noise(1, 2, 1000))
            monkeypatch.setattr(os, "replace", fail)
            stems.finish()

    with caplog.at_level(logging.WARNING), pytest.raises(AudioError, match="permission denied"):
        run()
    kept = tmp_path / "a.wav" if failures < 3 else next(tmp_path.glob(".stems-*/0.old"))
    assert kept.read_text() == "old"
    assert ("could not be put back" in caplog.text) == (failures > 1)


def test_a_name_may_be_as_long_as_a_file_system_allows(tmp_path: Path) -> None:
    path = tmp_path / f"{'日' * 83}.wav"  # 253 of 255 bytes
    save(path, noise(2, 1000))
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(AudioError, match="cannot write"):
        save(tmp_path / f"{'日' * 90}.wav", noise(2, 1000))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (torch.zeros(3, 2, 10), r"shape \[3, 2, 10\]; give \[2, C, n\]"),
        (torch.zeros(2, 10), r"shape \[2, 10\]"),
        (torch.full((2, 2, 10), torch.inf), "holds NaN or infinity"),
        (torch.zeros(2, 1, 10), "a block has 1 channels, those before had 2"),
        (np.zeros((2, 2, 10)), r"audio came as ndarray; give floating-point tensors \[S, C, n\]"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(tmp_path: Path, block: Tensor, message: str) -> None:
    stems = StemWriter(tmp_path / "song", ["a", "b"])
    stems.write(torch.zeros(2, 2, 10))
    with pytest.raises(ValueError, match=message), stems:
        stems.write(block)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("format", "channels"), [("wav16", 9), ("mp3", 3), ("flac", 0)])
def test_channels_that_a_format_lacks_are_told_at_once(
    tmp_path: Path, format: str, channels: int
) -> None:
    stems = StemWriter(tmp_path, ["a", "b"], format)
    with pytest.raises(ValueError, match=rf"cannot write a\.\w+: {channels} channels, and \d are"):
        stems.write(torch.zeros(2, channels, 10))
    stems.discard()
    assert list(tmp_path.iterdir()) == []


def test_of_a_block_that_is_refused_nothing_is_written(tmp_path: Path) -> None:
    bad = torch.full((2, 2, 10), 0.5)
    bad[1, 1, 9] = torch.nan
    with StemWriter(tmp_path, ["a", "b"]) as stems:
        with pytest.raises(ValueError, match="holds NaN or infinity"):
            stems.write(bad)
        stems.write(torch.full((2, 2, 10), 0.25))
    assert stems.peak == 0.25
    for name in "ab":
        assert torch.equal(load(tmp_path / f"{name}.wav"), torch.full((2, 10), 0.25))


def test_a_song_without_blocks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no block of stems was written"):
        StemWriter(tmp_path / "song", ["a"]).finish()
    assert list(tmp_path.iterdir()) == []


FULL_DISK = """
    import resource, signal, sys
    from contextlib import suppress
    from pathlib import Path
    import torch
    from moises_light.audio import FORMATS, AudioError, GrowingWriter, StemWriter, save

    # files that may not grow beyond a size fail as on a full disk
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
    folder, x = Path(sys.argv[1]), 0.1 * torch.randn(2, 2, 5 * 44_100)

    def stems():
        with StemWriter(folder / "song", ["a", "b"]) as writer:
            writer.write(x)

    def growing():
        with GrowingWriter(folder / "growing.wav") as writer:
            writer.write(x[0])

    def growing_slowly():  # so little that it fails in a buffer, which is written once more
        with GrowingWriter(folder / "growing.wav") as writer:
            for block in x[0].split(1000, -1):
                writer.write(block)

    def told_when_closing():
        writer = GrowingWriter(folder / "growing.wav")
        with suppress(AudioError):
            for block in x[0].split(1000, -1):
                writer.write(block)
        writer.close()

    def without_a_header():
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, 60_000))
        GrowingWriter(folder / "growing.wav")

    growths = (growing, growing_slowly, told_when_closing, without_a_header)
    calls = {f: lambda f=f: save(folder / f"a.{FORMATS[f]}", x[0], format=f) for f in FORMATS}
    for name, call in {**calls, "stems": stems, **{f.__name__: f for f in growths}}.items():
        try:
            call()
            print(name, "was written")
        except AudioError as error:
            assert "cannot write" in str(error), error
    assert [p.name for p in folder.iterdir()] == ["growing.wav"], list(folder.iterdir())
"""


@pytest.mark.skipif(os.name == "nt", reason="needs limits on the size of files")
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", ""), result.stderr[-2000:]
