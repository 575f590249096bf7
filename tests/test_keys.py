"""Voices that are brought into the key of what plays behind them."""

from __future__ import annotations

import numpy as np
import pytest

from moises_light.training.corpus import BACKING, write_track
from moises_light.training.keys import CLASSES, agreement, chroma, faster, into_key
from moises_light.training.mixing import MixingConfig, MixtureDataset

RATE = 44100


def notes(*hertz: float, seconds: float = 2.0, partials: int = 4) -> np.ndarray:
    """These notes at once, `[2, L]`."""
    time = np.arange(int(seconds * RATE)) / RATE
    wave = sum(np.sin(2 * np.pi * f * p * time) / p for f in hertz for p in range(1, partials + 1))
    return np.stack([wave, wave]).astype(np.float32) * np.float32(0.05)


def test_a_note_is_strongest_in_its_own_class_in_every_octave():
    for octave in (220.0, 440.0, 880.0):
        strength = chroma(notes(octave, partials=1)).mean(axis=0)
        assert strength.argmax() == 0  # classes are counted from 110 Hz
        higher = chroma(notes(octave * 2 ** (7 / CLASSES), partials=1)).mean(axis=0)
        assert higher.argmax() == 7
        assert strength.mean() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("away", [-4, -1, 0, 3])
def test_a_melody_is_moved_onto_its_chords(away):
    """Chords that change, so that only the right shift agrees at every moment."""
    chords = [(220, 277.2, 329.6), (293.7, 370, 440), (246.9, 311.1, 370)]
    behind = np.concatenate([notes(*chord, seconds=1) for chord in chords], axis=1)
    off = 2 ** (away / CLASSES)
    voice = np.concatenate([notes(2 * chord[1] * off, seconds=1) for chord in chords], axis=1)
    voice, behind = chroma(voice), chroma(behind)
    ratio, found = into_key(voice, behind, 0.9, 1.1)
    assert ratio == pytest.approx(1 / off, rel=1e-6)
    assert found == agreement(faster(voice, ratio), behind)[-away]
    assert found > 0.3


@pytest.mark.parametrize("away", [-6, 0, 6])
def test_a_voice_is_compared_with_what_it_then_sounds_with(away):
    """A scale that is sung two semitones off comes out an eighth shorter or longer, and fits."""
    ratio = 2 ** (away / CLASSES)
    degrees = 220 * 2 ** (np.array([0, 2, 4, 5, 7, 9, 11, 12]) / 12)
    behind = np.concatenate([notes(f, seconds=1.5) for f in degrees], axis=1)
    voice = [notes(2 * f / ratio, seconds=1.5 * ratio) for f in degrees]
    voice, behind = chroma(np.concatenate(voice, axis=1)), chroma(behind)
    found, in_time = into_key(voice, behind, 0.85, 1.15)
    assert found == pytest.approx(ratio)
    assert in_time > 0.7
    if away:
        assert agreement(voice, behind)[away] < in_time - 0.1


def test_rows_at_another_speed():
    rows = np.arange(9)
    assert faster(rows, 1.0).tolist() == rows.tolist()
    assert faster(rows, 2.0).tolist() == [0, 2, 4, 6, 8]
    assert faster(rows[:5], 0.8).tolist() == [0, 1, 2, 2, 3, 4]  # the nearest, ends included
    assert faster(rows[:1], 3.0).tolist() == [0]


def test_bounds_are_kept():
    voice, behind = chroma(notes(440.0 * 2 ** (3 / CLASSES))), chroma(notes(440.0))
    assert into_key(voice, behind, 0.9, 1.1)[0] == pytest.approx(2 ** (-3 / CLASSES))
    assert into_key(voice, behind, 0.96, 1.1)[0] == pytest.approx(2 ** (-2 / CLASSES))
    assert into_key(voice, behind, 1.0, 1.02)[0] == 1
    with pytest.raises(ValueError, match=r"no third of a semitone between 1.001 and 1.002; widen"):
        into_key(voice, behind, 1.001, 1.002)


def test_noise_and_silence_agree_with_nothing():
    noise = np.random.default_rng(0).normal(0, 0.1, (2, 2 * RATE)).astype(np.float32)
    assert np.abs(agreement(chroma(noise), chroma(notes(330.0, 550.0)))).max() < 0.2
    silence = np.zeros((2, RATE), np.float32)
    assert not agreement(chroma(silence), chroma(noise)).any()
    short = notes(330.0)[:, :1000]  # less than a frame
    assert chroma(short).shape == (1, CLASSES)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A singer of a note a quarter of a semitone to one and a quarter away from the backing's."""
    folder = tmp_path_factory.mktemp("keys")
    write_track(folder, "train", "b", "backing", {BACKING: notes(220.0, seconds=6, partials=2)})
    for number, away in enumerate((0.25, -0.75, 1.25)):
        voice = notes(440.0 * 2 ** (away / 12), seconds=6, partials=2)
        write_track(folder, "train", f"v{number}", "bank", {"vocals": voice})
    return folder


@pytest.mark.parametrize("in_key", [0.0, 1.0])
def test_singers_keep_to_the_key_of_their_backing(corpus, in_key):
    config = MixingConfig(backings=1, sung=1, in_key=in_key, codec=0, flat=0)
    dataset = MixtureDataset(corpus, "train", RATE, config=config)
    away, speeds = [], []
    for number in range(40):
        mixture, sources = dataset.draw(number)
        pitch = [
            np.abs(np.fft.rfft(x.numpy()[0] * np.hanning(RATE), 8 * RATE))[:4000].argmax() / 8
            for x in (sources[0], mixture - sources[0])
        ]
        away.append(12 * np.log2(pitch[0] / pitch[1]) % 12)
        speeds.append(pitch[1] / 220)
    distance = np.minimum(away, 12 - np.array(away))
    if in_key:
        # not all: three times the same singer may be too far from a backing that is fast already
        assert np.mean(distance < 0.3) > 0.9
        assert np.std(speeds) > 0.02  # the backing's own pitch is still drawn
    else:
        assert np.mean(distance < 0.3) < 0.5
