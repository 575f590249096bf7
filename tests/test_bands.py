"""Scores obey music theory, and playing them gives stems that keep time and add up."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from tiny_material import RATE

from moises_light.training import bands, build, render, singing, synth, world
from moises_light.training.bands import SCALES, STYLES, Note, Part, compose
from moises_light.training.banks import Bank
from moises_light.training.corpus import Corpus

EVERY_STYLE = [(style, seed) for style in STYLES for seed in range(3)]


def score_of(style, seed, **given):
    return compose(np.random.default_rng(seed), 40, style=style, **given)


@pytest.fixture
def studio(bank_folder):
    """Samples and synthetic sounds alone, so that the test is the same on every machine."""
    return render.Studio(Bank(bank_folder, held_out=False), soundfonts=())


@pytest.mark.parametrize(("style", "seed"), EVERY_STYLE)
def test_notes_lie_on_the_beat_and_within_the_form(style, seed):
    score = score_of(style, seed)
    for part in score.parts:
        for note in part.notes:
            # sixteenths, and the triplets and thirty-seconds of fills and rolls
            assert abs(note.start * 24 - round(note.start * 24)) < 1e-6
            assert 0 <= note.start < score.bars * 4
            assert 0 < note.velocity <= 1
            assert note.length > 0


@pytest.mark.parametrize(("style", "seed"), EVERY_STYLE)
def test_chords_fill_the_form_and_belong_to_the_key(style, seed):
    score = score_of(style, seed)
    end = 0.0
    for chord in score.chords:
        assert chord.start == end
        end = chord.start + chord.length
        assert {(tone - score.root) % 12 for tone in chord.tones} <= set(SCALES[score.scale])
        assert chord.root == chord.tones[0]
    assert end == score.bars * 4


@pytest.mark.parametrize(("style", "seed"), EVERY_STYLE)
def test_the_bass_plays_the_root_under_a_new_chord_and_chord_tones_elsewhere(style, seed):
    score = score_of(style, seed)
    for part in score.parts:
        if part.source != "bass":
            continue
        for note in part.notes:
            chord, following = bands._chords_at(score.chords, note.start)
            pitch_class = note.pitch % 12
            if note.start == chord.start:
                assert pitch_class == chord.root
            elif pitch_class not in chord.tones:
                # the only others lead by a step into the next root
                steps = (pitch_class - following.root) % 12
                assert steps in (1, 2, 10, 11)
                assert note.start % 4 >= 3


@pytest.mark.parametrize(("style", "seed"), EVERY_STYLE[::3])
def test_melodies_stay_in_the_scale_and_meet_the_chord_on_the_beat(style, seed):
    score = score_of(style, seed)
    for part in score.parts:
        if part.role not in ("melody", "lead"):
            continue
        for note in part.notes:
            assert (note.pitch - score.root) % 12 in SCALES[score.scale]
            chord, _ = bands._chords_at(score.chords, note.start)
            if note.start % 1 == 0:
                assert note.pitch % 12 in chord.tones


def test_what_is_given_is_kept():
    score = score_of("house", 0, bpm=123.0, root=4, scale="minor")
    assert (score.style, score.bpm, score.root, score.scale) == ("house", 123.0, 4, "minor")
    assert score.seconds == pytest.approx(40, abs=8)


def test_the_same_seed_writes_the_same_score():
    assert score_of(None, 5) == score_of(None, 5)
    assert score_of(None, 5) != score_of(None, 6)


def test_instrumentals_have_a_lead_and_no_singer():
    for seed in range(8):
        score = score_of(None, seed, vocals=False)
        assert not score.vocal_windows
        assert not [part for part in score.parts if part.source == "vocals"]
    leads = [
        any(p.role == "lead" for p in score_of(None, s, vocals=False).parts) for s in range(20)
    ]
    assert np.mean(leads) > 0.8


def test_a_full_band_has_every_source():
    for style in STYLES:
        sources = {part.source for part in score_of(style, 1, full=True).parts}
        assert sources == {"vocals", "drums", "bass", "other"}


def test_swing_delays_off_beats_alone():
    score = score_of("jazz", 0)
    beat = 60 / score.bpm
    assert score.swing > 0.2
    assert score.time(3.0) == pytest.approx(3 * beat)
    assert score.time(3.5) == pytest.approx((3.5 + score.swing / 2) * beat)


def test_every_tempo_has_a_style():
    for bpm in (30, 61, 82, 118, 162, 240):
        assert bands.styles_near(bpm)


def test_unknown_styles_and_scales_name_the_known():
    with pytest.raises(ValueError, match=r"no style is called 'polka'; choose one of rock, pop"):
        score_of("polka", 0)
    with pytest.raises(ValueError, match=r"no scale is called 'lydian'; choose one of major"):
        score_of("rock", 0, scale="lydian")


def test_voicings_hold_the_chord_near_their_centre():
    for centre in (55.0, 60.5, 67.0):
        pitches = bands.voice((7, 11, 2, 5), centre)
        assert {pitch % 12 for pitch in pitches} == {7, 11, 2, 5}
        assert all(abs(pitch - centre) <= 7 for pitch in pitches)


def test_the_same_seed_plays_the_same_bits(studio):
    takes = []
    for _ in range(2):
        rng = np.random.default_rng(1)
        score = compose(rng, 10, style="rock", full=True)
        takes.append(render.render(score, studio, rng)[0])
    assert takes[0].keys() == takes[1].keys() == {"drums", "bass", "other"}
    for source in takes[0]:
        np.testing.assert_array_equal(takes[0][source], takes[1][source])


def test_drums_sound_when_they_are_written(studio):
    hits = tuple(Note(float(beat), 0.25, 0, 0.9, "kick") for beat in (1, 2, 4))
    score = score_of("techno", 0, bpm=120.0)
    part = Part("drums", "kit", "synth", hits)
    take = render.play_drums(part, score, studio, 4 * RATE, np.random.default_rng(0))
    power = np.square(take.audio).sum(axis=0)
    for beat in (1, 2, 4):
        at = int(beat * 0.5 * RATE)
        assert power[at : at + 2000].sum() > 100 * power[at - 2000 : at - 200].sum()


def test_stems_leave_the_desk_at_their_levels(studio):
    rng = np.random.default_rng(3)
    stems, _ = render.render(compose(rng, 12, style="pop", full=True), studio, rng)
    for source, audio in stems.items():
        level = render.active_level(render.block_levels(audio))
        # five decibels of a song's own, and some for limiter and bus compressor
        assert abs(level - render.BUS_LEVELS[source]) < 9, source


def test_the_two_sides_of_the_fence_share_no_program(bank_folder):
    for held_out in (False, True):
        studio = render.Studio(Bank(bank_folder, held_out), held_out, soundfonts=())
        studio.soundfonts = [render.SOUNDFONTS[0]]
        for timbre in render.PROGRAMS:
            programs = studio.programs(timbre)
            assert all((p in render.HELD_OUT_PROGRAMS) == held_out for p in programs)


@pytest.mark.skipif(not render.SOUNDFONTS[0].is_file(), reason="the soundfont is not installed")
def test_a_soundfont_plays_the_same_bits_at_the_right_pitch():
    pytest.importorskip("fluidsynth")
    events = [(0.0, 1.0, 69, 100)]
    takes = [render.play_soundfont(events, render.SOUNDFONTS[0], 0, 73, RATE) for _ in range(2)]
    np.testing.assert_array_equal(takes[0], takes[1])
    spectrum = np.abs(np.fft.rfft(takes[0][0]))
    assert np.argmax(spectrum) == pytest.approx(440, abs=6)


@pytest.mark.parametrize("timbre", sorted(synth.SYNTHETIC))
def test_synthetic_sounds_are_finite_and_seeded(timbre):
    notes = [
        synth.play(synth.draw_patch(timbre, rng), 45, 0.8, 0.3, rng)
        for rng in (np.random.default_rng(7), np.random.default_rng(7))
    ]
    np.testing.assert_array_equal(notes[0], notes[1])
    assert np.isfinite(notes[0]).all()
    assert 0.01 < np.abs(notes[0]).max() < 2


@pytest.mark.parametrize("piece", sorted(render.PIECE_LEVELS))
def test_every_piece_of_the_kit_can_be_synthesised(piece):
    hit = synth.draw_hit(piece, np.random.default_rng(0))
    assert hit.shape[0] == 2
    assert np.abs(hit).max() == pytest.approx(1)


def test_keys_and_tempi_are_read_from_names():
    assert singing.key_in("ETV_Adlib_-_053_-_136_BPM_-_A_minor.ogg") == (9, "minor", 136.0)
    assert singing.key_in("ETV_-_136_BPM_-_Eb_Major.ogg") == (3, "major", 136.0)
    assert singing.key_in("SHV_-_Ab_minor_-_124_BPM_-_Ahh.ogg") == (8, "minor", 124.0)
    assert singing.key_in("DVS_-_Alright_1.ogg") is None


def test_the_band_follows_the_phrases_key_and_tempo(bank_folder):
    bank = Bank(bank_folder, held_out=False)
    for seed in range(12):
        singer = singing.phrases(bank, np.random.default_rng(seed))
        assert singer.scale == "minor"
        assert 0 <= singer.root < 12
        assert 125 / 2 * 0.8 < singer.bpm < 125 * 1.2


def test_phrases_begin_on_a_beat(bank_folder):
    bank = Bank(bank_folder, held_out=False)
    samples = bank.under("vocals/producerspace/shv_e_125")
    score = score_of("house", 0, bpm=125.0)
    bus = singing._string(
        *(bank, samples, score, 20 * RATE, lambda audio, *_: audio, np.random.default_rng(0)),
        hooks=0.0,
    )
    sound = np.abs(bus[0]) > 1e-4
    edges = np.flatnonzero(sound[1:] & ~sound[:-1])
    # the first sample of each stretch that follows at least 50 ms of silence
    starts = [e for e in edges if not sound[max(0, e - 2205) : e].any()]
    beats = np.array(starts) / RATE / (60 / 125)
    assert len(starts) > 2
    np.testing.assert_allclose(beats, np.round(beats), atol=0.02)


def test_bands_are_built_and_never_twice(tmp_path, bank_folder, monkeypatch):
    monkeypatch.setattr(render, "SOUNDFONTS", ())
    monkeypatch.setattr(build, "SINGERS", (("none", 1.0), ("notes", 1.0)))
    rendered = render.Studio(Bank(bank_folder, held_out=False), soundfonts=())
    seen = []
    for count in (1, 2):
        build.add_bands(tmp_path, "train", rendered, 0, count, seen.append, seconds=8.0)
    assert [track.name for track in seen] == ["band-0000", "band-0001"]
    for track in Corpus(tmp_path, "train").tracks:
        assert track.present == ("vocals", "drums", "bass", "other")
        assert {"drums", "bass", "other"} & set(track.rows)


def test_bands_of_several_processes_are_the_same_bits(tmp_path, studio, monkeypatch):
    monkeypatch.setattr(build, "SINGERS", (("none", 1.0),))
    for jobs in (1, 2):
        build.add_bands(tmp_path / str(jobs), "train", studio, 0, 2, print, seconds=5.0, jobs=jobs)
    for name in ("band-0000.npy", "band-0001.npy"):
        one, two = ((tmp_path / jobs / "train" / name).read_bytes() for jobs in "12")
        assert one == two


def voiced(hertz, seconds):
    """Something like a vowel that swells four times a second: harmonics under two resonances."""
    time = np.arange(int(seconds * RATE)) / RATE
    wave = np.zeros_like(time)
    for k in range(1, 40):
        f = hertz * k
        level = np.exp(-(((f - 700) / 300) ** 2)) + 0.5 * np.exp(-(((f - 1700) / 400) ** 2))
        wave += (level + 0.02) * np.sin(2 * np.pi * f * time)
    swell = 0.15 + np.sin(2 * np.pi * 2 * time) ** 2
    return (0.1 * swell * wave)[None].astype(np.float32)


needs_world = pytest.mark.skipif(not world.available(), reason="pyworld is not installed")


@needs_world
def test_speech_sings_the_score():
    audio = voiced(120, 2.0)
    analysis = world.analyse(audio)
    syllables = world.find_syllables(audio, analysis)
    assert len(syllables) >= 3
    notes = [(0.3, 0.6, 57.0), (1.2, 0.6, 62.0)]
    sung = world.sing(notes, [(analysis, syllables)], np.random.default_rng(0))
    pitch = world.analyse(sung).pitch
    for at, seconds, midi in notes:
        held = pitch[int((at + 0.2) / world.FRAME) : int((at + seconds - 0.1) / world.FRAME)]
        cents = 1200 * np.log2(np.median(held[held > 0]) / 440) + 100 * (69 - midi)
        # drift and vibrato of a singer
        assert abs(cents) < 40


@needs_world
def test_a_whisper_is_not_made_to_sing(monkeypatch):
    """It has no pitch to go by, and a whole melody of it would be a buzz."""
    breath = np.random.default_rng(0).standard_normal((1, 2 * RATE)).astype(np.float32)
    spoken = voiced(120, 2.0)
    bank = SimpleNamespace(audio=lambda sample: sample)
    score = SimpleNamespace(parts=[])
    monkeypatch.setattr(singing, "bandwidth_of", lambda samples: None)
    monkeypatch.setattr(
        singing, "_talk", lambda bank, samples, rng: singing.Singer(lambda *_: "whispers")
    )
    for clip, whispers in ((0.05 * breath * np.abs(spoken), True), (spoken, False)):
        monkeypatch.setattr(singing, "draw_speaker", lambda bank, rng, clip=clip: [clip] * 3)
        singer = singing.sung_speech(bank, np.random.default_rng(0))
        sung = singer.sing(score, RATE, np.random.default_rng(0))
        assert (sung == "whispers") is whispers


@needs_world
def test_another_voice_is_shifted_and_faster():
    analysis = world.analyse(voiced(200, 1.5))
    changed = world.revoice(analysis, -12, 0.8, speed=1.25)
    assert changed.frames == pytest.approx(analysis.frames / 1.25, abs=2)
    pitch = world.analyse(world.synthesise(changed)).pitch
    assert np.median(pitch[pitch > 0]) == pytest.approx(100, rel=0.02)


@needs_world
def test_a_second_voice_sings_thirds_of_the_key():
    analysis = world.analyse(voiced(440, 1.0))
    above = world.harmony(analysis, 9, SCALES["minor"], 2)
    ratio = np.median(above.pitch[analysis.pitch > 0] / analysis.pitch[analysis.pitch > 0])
    # A in A minor: its third is C, three semitones up
    assert ratio == pytest.approx(2 ** (3 / 12), rel=0.01)


@needs_world
def test_a_tuned_voice_steps_to_the_notes_of_the_key():
    # 40 cents above A: in A minor its nearest note is A
    analysis = world.analyse(voiced(440 * 2 ** (0.4 / 12), 1.0))
    cents = {}
    for strength in (0.0, 0.5, 1.0):
        pitch = world.tune(analysis, 9, SCALES["minor"], strength).pitch
        cents[strength] = 1200 * np.log2(np.median(pitch[pitch > 0]) / 440)
    assert cents[0.0] == pytest.approx(40, abs=4)
    assert cents[0.5] == pytest.approx(20, abs=4)
    assert cents[1.0] == pytest.approx(0, abs=2)


@needs_world
def test_a_whisper_has_no_pitch_and_keeps_its_vowel():
    heard = world.synthesise(world.whisper(world.analyse(voiced(200, 1.5))))
    power = np.square(np.abs(np.fft.rfft(heard[0])))
    f = np.arange(len(power)) * RATE / heard.shape[1]
    harmonic = power[(f > 590) & (f < 610)].mean() / power[(f > 640) & (f < 660)].mean()
    assert 0.2 < harmonic < 5
    assert power[(f > 500) & (f < 900)].mean() > 10 * power[(f > 3000) & (f < 4000)].mean()


@needs_world
def test_a_choir_sings_beside_the_tune_in_the_key():
    score = score_of("pop", 0, root=9, scale="minor")
    heard = singing.choir(voiced(440, 1.0), score, 0, singing.Voice(0, 1.0, 1.0))
    assert heard.shape[0] == 2
    power = np.square(np.abs(np.fft.rfft(heard * np.hanning(heard.shape[1])))).sum(axis=0)
    f = np.arange(len(power)) * RATE / heard.shape[1]
    around = {hertz: power[(f > 0.98 * hertz) & (f < 1.02 * hertz)].sum() for hertz in
              (523.25, 329.63, 659.26, 466.16, 622.25)}  # fmt: skip
    # C, E and E are sung beside the A, B flat and D sharp are not
    assert min(list(around.values())[:3]) > 20 * max(list(around.values())[3:])
    sides = np.square(np.abs(np.fft.rfft(heard)))[:, (f > 510) & (f < 535)].sum(axis=1)
    assert sides[0] > 2 * sides[1]
