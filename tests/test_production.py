"""Treatments of parts do what producers expect, and those of the whole mix keep stems a sum."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_material import RATE, tone

from moises_light.training import production, render, synth
from moises_light.training.bands import compose


@pytest.fixture(scope="module")
def score():
    return compose(np.random.default_rng(1), 16, style="house", bpm=120.0)


def noise(seconds, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, (2, int(seconds * RATE))).astype(np.float32)


def steady(hertz, seconds):
    time = np.arange(int(seconds * RATE)) / RATE
    return np.repeat(np.sin(2 * np.pi * hertz * time)[None], 2, axis=0).astype(np.float32)


def level(audio, begin, end):
    """Mean level in dB between two seconds."""
    piece = audio[:, int(begin * RATE) : int(end * RATE)]
    return 10 * np.log10(np.square(piece).mean() + 1e-12)


def loudest(audio, low=50):
    """Frequency in Hz of the highest peak of a smoothed spectrum."""
    power = np.square(np.abs(np.fft.rfft(audio.mean(axis=0))))
    width = int(40 * audio.shape[1] / RATE) + 1
    smooth = np.convolve(power, np.ones(width) / width, mode="same")
    f = np.arange(len(power)) * RATE / audio.shape[1]
    return f[np.argmax(np.where(f > low, smooth, 0))]


def test_a_sweep_opens_and_leaves_the_rest_alone():
    audio = steady(5000, 4.0)
    swept = production.Sweep(1.0, 3.0, 300, 16000)(audio)
    np.testing.assert_array_equal(swept[:, :RATE], audio[:, :RATE])
    np.testing.assert_array_equal(swept[:, 3 * RATE :], audio[:, 3 * RATE :])
    assert level(swept, 1.1, 1.3) < level(audio, 0, 1) - 40
    assert level(swept, 2.8, 2.9) == pytest.approx(level(audio, 0, 1), abs=1)


def test_a_high_pass_sweep_takes_the_lows():
    swept = production.Sweep(0.0, 2.0, 20, 1500, high=True)(steady(200, 2.0))
    assert level(swept, 1.7, 1.9) < level(swept, 0.1, 0.3) - 40


def test_a_stutter_repeats_its_moment():
    audio = noise(2.0)
    heard = production.Stutter(0.5, 0.125, 4)(audio)
    n, start = int(0.125 * RATE), int(0.5 * RATE)
    for turn in range(1, 4):
        at = start + turn * n
        np.testing.assert_array_equal(heard[:, at : at + n], heard[:, start : start + n])
    np.testing.assert_array_equal(heard[:, start + 4 * n :], audio[:, start + 4 * n :])


def test_a_stutter_plays_backwards_and_slows_down():
    audio = steady(1000, 2.0)
    ramp = audio * np.linspace(0, 1, audio.shape[1], dtype=np.float32)
    backwards = production.Stutter(0.5, 0.5, 2, "reverse")(ramp)
    assert level(backwards, 0.5, 0.7) > level(backwards, 1.3, 1.5) + 6
    stopped = production.Stutter(0.5, 0.5, 2, "stop")(audio)
    assert loudest(stopped[:, int(0.5 * RATE) : int(0.6 * RATE)]) == pytest.approx(1000, rel=0.15)
    assert loudest(stopped[:, int(1.2 * RATE) : int(1.4 * RATE)]) < 400


def test_a_stutter_beyond_the_end_changes_nothing():
    audio = noise(1.0)
    assert production.Stutter(0.9, 0.1, 4)(audio) is audio


def test_a_gate_has_one_rhythm_for_every_bar(score):
    gated = production.gate(steady(500, 8.0), score, np.random.default_rng(0))
    step = 15 / score.bpm
    levels = np.array([level(gated, (k + 0.1) * step, (k + 0.4) * step) for k in range(64)])
    bars = levels.reshape(4, 16)
    np.testing.assert_allclose(bars, np.repeat(bars[:1], 4, axis=0), atol=1)
    assert levels.max() > -4
    assert levels.min() < -15


@pytest.mark.parametrize("seed", range(3))
def test_an_instrument_speaks_its_vowel(seed, monkeypatch):
    monkeypatch.setattr(production, "VOWELS", {"a": (730, 1090, 2440)})
    spoken = production.talk(noise(4.0), 0.5, np.random.default_rng(seed))
    assert 0.8 * 730 < loudest(spoken) < 1.3 * 1090


@pytest.mark.parametrize("seed", range(4))
def test_a_wah_lets_the_middle_through(seed):
    heard = production.wah(noise(4.0), np.random.default_rng(seed))
    assert 250 < loudest(heard) < 3000


def test_a_telephone_is_narrow():
    rng = np.random.default_rng(0)
    for hertz in (60, 9000):
        quiet = production.telephone(steady(hertz, 1.0), np.random.default_rng(0))
        heard = production.telephone(steady(1000, 1.0), rng)
        assert level(quiet, 0.2, 0.8) < level(heard, 0.2, 0.8) - 20


def test_throws_sound_after_the_voice(score):
    audio = np.zeros((2, 12 * RATE), np.float32)
    audio[:, : 4 * RATE] = steady(500, 4.0)
    thrown = production.throws(audio, score, np.random.default_rng(2))
    assert level(audio, 4.05, 4.5) < -100
    assert level(thrown, 4.05, 4.5) > -40


def test_chops_are_one_pattern_of_the_voice(score):
    frames = int(score.seconds * RATE)
    voice = np.zeros((2, frames), np.float32)
    assert not production.chops(voice, score, np.random.default_rng(0)).any()
    voice[:, :RATE] = tone(440, 1.0)
    chopped = production.chops(voice, score, np.random.default_rng(0))
    assert np.abs(chopped).max() > 0.1
    step = int(240 / score.bpm * RATE)
    bars = [chopped[:, k * step : (k + 1) * step] for k in range(score.bars)]
    busy = [bar for bar in bars if np.abs(bar).max() > 0.1]
    assert len(busy) >= 2
    np.testing.assert_allclose(busy[0][:, :2000], busy[1][:, :2000], atol=1e-6)


@pytest.mark.parametrize("seed", range(12))
def test_textures_are_finite_and_audible(score, seed):
    frames = int(score.seconds * RATE)
    layer = production.texture(score, frames, np.random.default_rng(seed))
    assert layer.shape == (2, frames)
    assert layer.dtype == np.float32
    assert np.isfinite(layer).all()
    assert np.abs(layer).max() > 0


@pytest.mark.parametrize("seed", range(6))
def test_treated_parts_stay_finite_and_seeded(score, seed):
    audio = noise(score.seconds)
    for treat in (
        lambda rng: production.treat_vocals(audio, score, rng),
        lambda rng: production.treat_part(audio, True, score, rng),
    ):
        heard = [treat(np.random.default_rng(seed)) for _ in range(2)]
        np.testing.assert_array_equal(heard[0], heard[1])
        assert heard[0].shape == audio.shape
        assert heard[0].dtype == np.float32
        assert np.isfinite(heard[0]).all()


@pytest.mark.parametrize("seed", range(8))
def test_mastered_stems_add_up_to_the_mastered_mix(score, seed):
    stems = {"drums": noise(score.seconds, 1), "other": noise(score.seconds, 2)}
    apart = render.master(stems, score, True, np.random.default_rng(seed))
    mixture = stems["drums"] + stems["other"]
    # a stem alone is the mix: the same draws and the same gain
    whole = render.master({"other": mixture}, score, True, np.random.default_rng(seed))["other"]
    np.testing.assert_allclose(apart["drums"] + apart["other"], whole, atol=1e-5)


def test_a_gliding_voice_reaches_its_notes():
    patch = synth.Patch("saw", vibrato=0.0)
    notes = [(0.0, 1.0, 57.0, 0.8), (1.0, 1.0, 69.0, 0.8)]
    heard = synth.line(patch, notes, 2 * RATE, 0.05, np.random.default_rng(0))

    def pitch(begin, end):
        piece = heard[:, int(begin * RATE) : int(end * RATE)]
        power = np.abs(np.fft.rfft(piece.mean(axis=0) * np.hanning(piece.shape[1]), 8 * RATE))
        return np.argmax(power) / 8

    assert pitch(0.3, 0.9) == pytest.approx(220, rel=0.01)
    assert pitch(1.5, 1.9) == pytest.approx(440, rel=0.01)
    assert 225 < pitch(1.0, 1.05) < 430
