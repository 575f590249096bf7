"""Examples drawn from a corpus: pure, exact, and as the shares ask."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tiny_material import RATE

from moises_light.config import SOURCES
from moises_light.training import augment
from moises_light.training.config import TrainConfig
from moises_light.training.corpus import BACKING, write_track
from moises_light.training.mixing import MixingConfig, MixtureDataset

LENGTH = RATE


def noise(seed, seconds=4.0, level=0.1):
    rng = np.random.default_rng(seed)
    return (level * rng.standard_normal((2, int(seconds * RATE)))).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two whole songs, a bank track for each source, and one held-out song."""
    path = tmp_path_factory.mktemp("corpus")
    for song in range(2):
        stems = {source: noise(10 * song + k) for k, source in enumerate(SOURCES)}
        write_track(path, "train", f"song-{song}", "song", stems)
    for k, source in enumerate(SOURCES):
        tags = ["lead"] if source == "other" else []
        write_track(path, "train", f"bank-{source}", "bank", {source: noise(50 + k)}, tags=tags)
    hum = np.sin(2 * np.pi * 1000 * np.arange(4 * RATE) / RATE)
    held = {source: np.stack([hum, hum]).astype(np.float32) * 0.1 for source in SOURCES}
    write_track(path, "heldout", "song-9", "song", held)
    return path


def test_an_example_depends_on_seed_and_index_alone(folder):
    first = MixtureDataset(folder, "train", LENGTH, seed=3)
    second = MixtureDataset(folder, "train", LENGTH, seed=3)
    forwards = [first.draw(index) for index in range(6)]
    backwards = [second.draw(index) for index in reversed(range(6))][::-1]
    for (mixture, sources), (mixture2, sources2) in zip(forwards, backwards, strict=True):
        assert torch.equal(mixture, mixture2)
        assert torch.equal(sources, sources2)
    other = MixtureDataset(folder, "train", LENGTH, seed=4).draw(0)[0]
    assert not torch.equal(forwards[0][0], other)


def test_a_seed_draws_what_it_drew_before(tmp_path):
    """Runs are compared with those of another day: one draw more, or in another place, shows."""
    for k, source in enumerate(SOURCES):
        tags = ["lead"] if source == "other" else []
        write_track(tmp_path, "train", source, "bank", {source: noise(50 + k)}, tags=tags)
    rows = {source: noise(k) for k, source in enumerate(SOURCES)}
    write_track(tmp_path, "train", "song", "song", rows, limits={"vocals": 9000.0})
    write_track(tmp_path, "train", "backing", "backing", {BACKING: noise(9)})
    config = MixingConfig(codec=0)
    dataset = MixtureDataset(tmp_path, "train", LENGTH // 2, seed=5, config=config)
    levels = []
    for index in range(8):
        mixture, sources = dataset.draw(index)
        pair = torch.stack([sources[0], mixture - sources[0]]).square().mean((1, 2))
        levels.append([round(10 * float(power.log10()), 2) if power else None for power in pair])
    # dB of the vocals and of the rest; libraries and processors round otherwise, but far below this
    for found, expected in zip(
        levels,
        [
            [-18.15, -20.25],
            [-23.32, -22.67],
            [-40.93, -18.89],
            [None, -14.24],
            [None, -15.87],
            [-27.81, -15.17],
            [None, -12.86],
            [-15.85, None],
        ],
        strict=True,
    ):
        assert found == pytest.approx(expected, abs=0.02)


def test_the_mixture_is_exactly_the_sum(folder):
    dataset = MixtureDataset(folder, "train", LENGTH, seed=0, config=MixingConfig(codec=0))
    for index in range(40):
        mixture, sources = dataset.draw(index)
        assert mixture.shape == (2, LENGTH)
        assert sources.shape == (4, 2, LENGTH)
        assert mixture.dtype == sources.dtype == torch.float32
        assert torch.equal(mixture, sources.sum(0))
        assert mixture.isfinite().all()
        assert 0 < mixture.abs().max() <= 1


def test_dropped_sources_are_silent(folder):
    config = MixingConfig(drop=1.0, sparse=0.0, aligned=0.0, negatives=0.0)
    dataset = MixtureDataset(folder, "train", LENGTH, config=config)
    for index in range(20):
        _, sources = dataset.draw(index)
        assert [bool(source.any()) for source in sources].count(True) == 1


def test_sparse_examples_have_one_source_or_two(folder):
    config = MixingConfig(sparse=1.0, aligned=0.0, negatives=0.0)
    dataset = MixtureDataset(folder, "train", LENGTH, config=config)
    drawn = [[bool(source.any()) for source in dataset.draw(index)[1]] for index in range(40)]
    assert {sum(playing) for playing in drawn} == {1, 2}
    assert all(map(any, zip(*drawn, strict=True)))


def test_nothing_is_dropped_where_nothing_should_be(folder):
    config = MixingConfig(drop=0.0, sparse=0.0, negatives=0.0)
    dataset = MixtureDataset(folder, "train", LENGTH, config=config)
    for index in range(20):
        assert all(bool(source.any()) for source in dataset.draw(index)[1])


def test_negatives_have_a_lead_and_no_vocals(folder):
    config = MixingConfig(negatives=1.0)
    dataset = MixtureDataset(folder, "train", LENGTH, config=config)
    for index in range(20):
        _, sources = dataset.draw(index)
        assert not sources[SOURCES.index("vocals")].any()
        assert sources[SOURCES.index("other")].any()


def test_shares_are_what_the_config_says(folder):
    dataset = MixtureDataset(
        folder, "train", 4410, config=MixingConfig(drop=0, sparse=0, negatives=0.3)
    )
    silent = [not dataset.draw(index)[1][0].any() for index in range(400)]
    # three standard deviations of a share of 0.3 among 400
    assert np.mean(silent) == pytest.approx(0.3, abs=3 * np.sqrt(0.3 * 0.7 / 400))


def test_a_flat_aligned_example_is_one_moment_of_one_track(tmp_path):
    same = noise(0)
    write_track(tmp_path, "train", "a", "song", dict.fromkeys(SOURCES, same))
    config = MixingConfig(aligned=1.0, flat=1.0, drop=0.0, sparse=0.0, negatives=0.0, dull=0.0)
    dataset = MixtureDataset(tmp_path, "train", LENGTH, config=config)
    for index in range(5):
        _, sources = dataset.draw(index)
        for source in sources[1:]:
            assert torch.equal(source, sources[0])


def test_the_heldout_split_reads_nothing_of_train(folder):
    config = MixingConfig(aligned=1.0, flat=1.0, drop=0.0, sparse=0.0, negatives=0.0, dull=0.0)
    mixture, _ = MixtureDataset(folder, "heldout", LENGTH, config=config).draw(0)
    spectrum = torch.fft.rfft(mixture[0]).abs()
    # all of train is noise; what is held out here is a tone of 1 kHz
    assert spectrum[990:1011].square().sum() > 0.999 * spectrum.square().sum()


def test_a_band_limited_voice_limits_the_whole_mixture(tmp_path):
    for k, source in enumerate(SOURCES):
        limit = 8000.0 if source == "vocals" else None
        write_track(tmp_path, "train", source, "bank", {source: noise(k)}, bandwidth=limit)
    config = MixingConfig(drop=0.0, sparse=0.0, negatives=0.0, dull=0.0, walled=1.0)
    mixture, _ = MixtureDataset(tmp_path, "train", LENGTH, config=config).draw(0)
    spectrum = torch.fft.rfft(mixture[0] * torch.hann_window(LENGTH)).abs()
    # saturation may come after the filter for some source, at a far lower level
    assert spectrum[8200:].square().mean() < 1e-3 * spectrum[:7000].square().mean()


@pytest.mark.parametrize("sings", [True, False])
def test_a_row_without_highs_limits_the_mixtures_that_it_is_in(tmp_path, sings):
    rows = {source: noise(k) for k, source in enumerate(SOURCES)}
    write_track(tmp_path, "train", "a", "song", rows, limits={"vocals": 8000.0})
    write_track(tmp_path, "train", "b", "backing", {BACKING: noise(9)})
    for backings in (0.0, 1.0):
        config = MixingConfig(
            backings=backings,
            sung=float(sings),
            negatives=float(not sings),
            drop=0.0,
            sparse=0.0,
            dull=0.0,
            codec=0.0,
            walled=0.0,
        )
        dataset = MixtureDataset(tmp_path, "train", LENGTH, config=config)
        for index in range(3):
            mixture, _ = dataset.draw(index)
            spectrum = torch.fft.rfft(mixture[0] * torch.hann_window(LENGTH)).abs()
            highs = spectrum[8200:].square().mean() / spectrum[:7000].square().mean()
            assert highs < 1e-2 if sings else highs > 1e-2


def test_bright_pieces_are_those_of_vocals_and_other(folder):
    quiet = {"drop": 0.0, "sparse": 0.0, "negatives": 0.0, "dull": 0.0, "aligned": 0.0}

    def tilts(bright):
        """What the config adds above 12 kHz to each source, in dB beside what is below 1 kHz."""
        config = MixingConfig(**quiet, bright=bright)
        dataset = MixtureDataset(folder, "train", LENGTH, config=config)
        spectra = torch.fft.rfft(torch.stack([dataset.draw(index)[1] for index in range(40)]))
        power = spectra.abs().square()
        ratio = power[..., 12000:].mean((2, 3)) / power[..., :1000].mean((2, 3))
        return dict(zip(SOURCES, 10 * ratio.log10().median(dim=0).values, strict=True))

    plain, bright = tilts(0.0), tilts(1.0)
    for source in ("vocals", "other"):
        assert bright[source] - plain[source] > 4
    for source in ("drums", "bass"):
        assert abs(bright[source] - plain[source]) < 3


def test_new_tracks_are_taken_up(tmp_path):
    write_track(tmp_path, "train", "a", "bank", {"bass": noise(0)})
    dataset = MixtureDataset(tmp_path, "train", LENGTH, config=MixingConfig(negatives=0.0))
    assert not dataset.draw(0)[1][1].any()
    write_track(tmp_path, "train", "b", "bank", {"drums": noise(1)})
    assert dataset.rescan() == 1
    assert any(dataset.draw(index)[1][1].any() for index in range(10))


def test_tracks_shorter_than_a_segment_end_in_silence(tmp_path):
    write_track(tmp_path, "train", "a", "bank", {"bass": noise(0, seconds=0.5)})
    mixture, _ = MixtureDataset(tmp_path, "train", 2 * RATE).draw(0)
    assert mixture.shape == (2, 2 * RATE)


def test_moments_are_chosen_where_something_plays(tmp_path):
    audio = np.concatenate([np.zeros((2, 60 * RATE), np.float32), noise(0, 4)], axis=1)
    write_track(tmp_path, "train", "a", "bank", {"bass": audio})
    dataset = MixtureDataset(tmp_path, "train", LENGTH)
    levels = [float(dataset.draw(index)[0].square().mean()) for index in range(30)]
    assert np.mean(np.array(levels) > 1e-6) > 0.9


def test_an_empty_corpus_is_refused(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "index.jsonl").touch()
    with pytest.raises(ValueError, match="holds no audio yet"):
        MixtureDataset(tmp_path, "train")


def test_a_corpus_of_which_nothing_counts_says_so(tmp_path):
    write_track(tmp_path, "train", "a", "song", {"bass": noise(0)})
    with pytest.raises(ValueError, match=r"tracks of the kind song alone, .* give --songs 1"):
        MixtureDataset(tmp_path, "train", config=MixingConfig.weighted(0, 0.35))


def test_nothing_faint_is_raised_to_the_level_of_the_rest(tmp_path):
    """A corpus may hold a row of next to nothing; no draw makes a singer of it."""
    rows = {s: noise(k, level=0.002 if s == "vocals" else 0.1) for k, s in enumerate(SOURCES)}
    track = write_track(tmp_path, "train", "a", "song", rows)
    index = tmp_path / "train" / "index.jsonl"
    # what a build before said of a stem that only leaks: the audio is 40 dB louder here
    index.write_text(index.read_text().replace(f'"vocals":{track.level["vocals"]}', '"vocals":-94'))
    free = {"drop": 0.0, "sparse": 0.0, "negatives": 0.0, "dull": 0.0, "codec": 0.0, "dense": 0.0}
    for aligned in (0.0, 1.0):
        for flat in (0.0, 1.0):
            config = MixingConfig(aligned=aligned, flat=flat, **free)
            dataset = MixtureDataset(tmp_path, "train", LENGTH, config=config)
            for index in range(6):
                power = dataset.draw(index)[1].square().mean((1, 2))
                # 34 dB below, raised by 20, and by 9.5 at most that are drawn
                assert 10 * float((power[0] / power[1:].sum()).log10()) < 0


@pytest.mark.parametrize("speed", [0.9, 1.0, 1.1])
def test_reshape_resamples_in_place(speed):
    """A tone comes out higher by the speed, and the piece's first sample stays the first."""
    n, margin = augment.piece_frame(LENGTH, speed)
    ratio = n / augment.piece_frame(LENGTH, 1.0)[0]
    # lengths with a quick FFT lie up to 2 % apart here
    assert ratio == pytest.approx(speed, rel=0.02)
    time = (np.arange(n) - margin) / RATE
    piece = np.stack([np.sin(2 * np.pi * 441 * time)] * 2).astype(np.float32)
    out = augment.reshape(piece, augment.Shape(low=1e-9), LENGTH)
    expected = np.sin(2 * np.pi * 441 * ratio * np.arange(LENGTH) / RATE)
    # rounding of the margin moves the start by half a sample at most: 441 Hz * pi / RATE
    np.testing.assert_allclose(out[0], expected, atol=0.04)


def test_a_flat_shape_changes_nothing():
    n, margin = augment.piece_frame(LENGTH, 1.0)
    piece = noise(0)[:, :n]
    out = augment.reshape(piece, augment.Shape(), LENGTH)
    np.testing.assert_array_equal(out, piece[:, margin : margin + LENGTH])


def test_shelves_and_cutoff_shape_the_spectrum():
    frequencies = np.array([20.0, 1000.0, 20000.0])
    shelf = augment.Shape(low=6, low_at=100, high=-6, high_at=5000)
    gain = 20 * np.log10(augment.response(shelf, frequencies))
    np.testing.assert_allclose(gain, [6, 0, -6], atol=0.5)
    cut = augment.response(augment.Shape(cutoff=12000), np.array([11000.0, 12000.0, 15000.0]))
    np.testing.assert_allclose(cut, [1, 0, 0], atol=1e-6)


def test_place_pans_and_narrows():
    piece = noise(0)
    left = augment.place(piece, -1.0, 1.0)
    assert not left[1].any()
    narrow = augment.place(piece, 0.0, 0.0)
    np.testing.assert_allclose(narrow[0], narrow[1])
    np.testing.assert_allclose(augment.place(piece, 0.0, 1.0), piece, atol=1e-6)


@pytest.mark.parametrize("codec", augment.CODECS)
def test_codecs_keep_time_and_cost_little(codec):
    rng = np.random.default_rng(0)
    audio = np.cumsum(rng.standard_normal((2, RATE)), axis=1)
    audio = (0.01 * (audio - np.roll(audio, 200, axis=1))).astype(np.float32)  # dull, as music is
    errors = []
    for quality in (0.0, 1.0):
        decoded = augment.round_trip(audio, codec, quality)
        assert decoded.shape == audio.shape
        assert decoded.dtype == np.float32
        inner = slice(3000, -3000)
        error = np.square(decoded - audio)[:, inner].mean() / np.square(audio[:, inner]).mean()
        errors.append(10 * np.log10(error))
    # a delay of one sample alone would be an error of about -12 dB here
    assert -80 < errors[1] < errors[0] < -20


def test_a_share_of_mixtures_went_through_a_codec(folder):
    plain = MixtureDataset(folder, "train", LENGTH, config=MixingConfig(codec=0))
    lossy = MixtureDataset(folder, "train", LENGTH, config=MixingConfig(codec=1))
    for index in range(4):
        clean, sources = plain.draw(index)
        coded, same = lossy.draw(index)
        assert torch.equal(sources, same)
        assert not torch.equal(coded, clean)
        # of white noise AAC keeps the energy and draws the samples anew, so this is all that stays,
        # where it cuts nothing off
        before, after = (below_10_khz(x) for x in (clean, coded))
        assert 0.7 < after / before < 1.4


def below_10_khz(audio):
    return float(torch.fft.rfft(audio)[:, : 10_000 * audio.shape[-1] // RATE].abs().square().sum())


def test_an_unknown_codec_is_named():
    with pytest.raises(ValueError, match="codec='opus'; choose one of mp3, aac"):
        augment.round_trip(np.zeros((2, 100), np.float32), "opus", 0.5)


@pytest.fixture(scope="module")
def backed(tmp_path_factory):
    """A singer of 1 kHz and a backing of 200 Hz."""
    path = tmp_path_factory.mktemp("backed")
    time = np.arange(4 * RATE) / RATE
    for name, kind, row, hertz in (("v", "bank", "vocals", 1000), ("b", "backing", BACKING, 200)):
        wave = 0.1 * np.sin(2 * np.pi * hertz * time)
        write_track(path, "train", name, kind, {row: np.stack([wave, wave]).astype(np.float32)})
    return path


def test_before_a_backing_only_the_vocals_are_known_apart(backed):
    config = MixingConfig(backings=1, sung=1, codec=0, bright=0, speed=0)
    dataset = MixtureDataset(backed, "train", LENGTH, config=config)
    for index in range(10):
        mixture, sources = dataset.draw(index)
        assert sources[0].isfinite().all()
        assert sources[1:].isnan().all()
        rest = mixture - sources[0]
        vocals, backing = (x.numpy()[0, 4410:-4410] for x in (sources[0], rest))
        peaks = [
            np.abs(np.fft.rfft(x * np.hanning(len(x)))).argmax() * RATE / len(x)
            for x in (vocals, backing)
        ]
        assert peaks == pytest.approx([1000, 200], abs=5)


def test_shares_of_backings_and_of_those_that_are_sung(backed, folder):
    config = MixingConfig(backings=0.5, sung=0.5)
    drawn = [MixtureDataset(backed, "train", 4410, config=config).draw(k)[1] for k in range(300)]
    with_backing = [bool(sources[1].isnan().any()) for sources in drawn]
    sung = [bool(sources[0].any()) for sources, b in zip(drawn, with_backing, strict=True) if b]
    assert np.mean(with_backing) == pytest.approx(0.5, abs=0.1)
    assert np.mean(sung) == pytest.approx(0.5, abs=0.12)
    # a corpus without backings draws the same examples whatever their share
    plain, asked = (
        MixtureDataset(folder, "train", LENGTH, config=MixingConfig(backings=share)).draw(5)
        for share in (0.0, 1.0)
    )
    assert torch.equal(plain[1], asked[1])


def test_a_run_chooses_how_many_real_songs_and_backings_it_hears(tmp_path):
    for name, kind, hertz in (("s", "song", 1000), ("b", "band", 200)):
        wave = 0.1 * np.sin(2 * np.pi * hertz * np.arange(4 * RATE) / RATE)
        stems = dict.fromkeys(SOURCES, np.stack([wave, wave]).astype(np.float32))
        write_track(tmp_path, "train", name, kind, stems)
    usual = MixingConfig.weighted(TrainConfig.songs, TrainConfig.backings)
    assert usual == MixingConfig()
    config = MixingConfig.weighted(0, 0.75)
    assert config.backings == 0.75
    dataset = MixtureDataset(tmp_path, "train", LENGTH, config=config)
    for index in range(10):
        mixture, _ = dataset.draw(index)
        power = np.abs(np.fft.rfft(mixture[0].numpy() * np.hanning(LENGTH)))
        assert power.argmax() < 300  # the band's, as fast as it may be played


def test_a_backing_is_no_source_of_other_examples(backed):
    config = MixingConfig(backings=0)
    dataset = MixtureDataset(backed, "train", LENGTH, config=config)
    for index in range(10):
        _, sources = dataset.draw(index)
        assert sources.isfinite().all()
        assert not sources[1:].any()


def test_without_av_examples_go_through_mp3_alone(folder, monkeypatch):
    monkeypatch.setattr(augment.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(augment, "_through_aac", None)
    dataset = MixtureDataset(folder, "train", LENGTH, config=MixingConfig(codec=1))
    for index in range(8):
        mixture, sources = dataset.draw(index)
        assert mixture.isfinite().all()
        assert not torch.equal(mixture, sources.sum(0))


def test_a_second_instrument_joins_other_and_no_other_source(folder):
    shares = {"backings": 0.0, "sparse": 0.0, "negatives": 0.0, "drop": 0.0, "codec": 0.0}
    for aligned in (0.0, 1.0):
        config = {**shares, "aligned": aligned, "flat": 0.0}
        for index in range(12):
            alone, joined = (
                MixtureDataset(folder, "train", LENGTH, config=MixingConfig(dense=dense, **config))
                for dense in (0.0, 1.0)
            )
            alone, joined = (dataset.draw(index)[1].numpy() for dataset in (alone, joined))
            # one gain for the whole example; what is left of `other` is the second instrument
            gain = np.vdot(joined[1], alone[1]) / np.vdot(alone[1], alone[1])
            np.testing.assert_allclose(joined[:3], gain * alone[:3], atol=1e-5)
            rest, voice = (
                np.square(np.abs(np.fft.rfft(x)[:, 200:2000])).sum()
                for x in (joined[3] - gain * alone[3], joined[0])
            )
            assert 10 ** (-12.5 / 10) < rest / voice < 10 ** (0.5 / 10)


def test_a_second_instrument_joins_a_backing_and_no_voice(tmp_path, backed):
    for split in ("b", "v"):
        (line,) = (x for x in (backed / "train" / "index.jsonl").read_text().splitlines()
                   if json.loads(x)["name"] == split)  # fmt: skip
        stems = {json.loads(line)["rows"][0]: np.load(backed / "train" / f"{split}.npy")[0] / 32768}
        write_track(tmp_path, "train", split, json.loads(line)["kind"], stems)
    write_track(tmp_path, "train", "o", "bank", {"other": noise(3)})
    shares = {"backings": 1.0, "sung": 1.0, "codec": 0.0, "flat": 0.0, "bright": 0.0}
    for index in range(6):
        (plain, voice), (full, same) = (
            MixtureDataset(
                tmp_path, "train", LENGTH, config=MixingConfig(dense=dense, **shares)
            ).draw(index)
            for dense in (0.0, 1.0)
        )
        gain = float((same[0] * voice[0]).sum() / voice[0].square().sum())
        torch.testing.assert_close(same[0], gain * voice[0], rtol=0, atol=1e-5)
        assert same[1:].isnan().all()
        joined = (full - gain * plain).square().mean()
        assert joined > 1e-3 * full.square().mean()


def test_nothing_is_raised_without_end_to_meet_a_voice(tmp_path):
    """What has nothing in a voice's register joins at its own level."""
    time = np.arange(4 * RATE) / RATE
    high = np.stack([0.1 * np.sin(2 * np.pi * 9000 * time)] * 2).astype(np.float32)
    write_track(tmp_path, "train", "v", "bank", {"vocals": noise(1)})
    write_track(tmp_path, "train", "o", "bank", {"other": high})
    config = MixingConfig(dense=1.0, aligned=0.0, sparse=0.0, negatives=0.0, drop=0.0, codec=0.0)
    dataset = MixtureDataset(tmp_path, "train", LENGTH, config=config)
    for index in range(8):
        _, sources = dataset.draw(index)
        power = sources.square().mean((1, 2))
        assert power[3] / power[0] < 1000  # a sine that is raised to meet it would be far louder


def test_basses_get_mids(folder):
    shares = {"sparse": 0.0, "negatives": 0.0, "drop": 0.0, "aligned": 0.0, "dull": 0.0}

    def mids(growl):
        """Of a bass that has next to nothing there, in dB."""
        dataset = MixtureDataset(
            folder, "train", LENGTH, config=MixingConfig(growl=growl, **shares)
        )
        rng = np.random.default_rng(1)
        found = []
        for _ in range(20):
            track = dataset._single["bass"].draw(rng)
            piece = np.square(
                np.abs(np.fft.rfft(dataset._varied(rng, track, "bass", 0, 1.0, None)))
            )
            found.append(10 * np.log10(piece[:, 250:660].mean() / piece[:, 3000:].mean()))
        return np.median(found)

    assert mids(1.0) > mids(0.0) + 5


def test_a_voice_may_break_off_alone(tmp_path):
    rows = {source: noise(k) for k, source in enumerate(SOURCES)}
    write_track(tmp_path, "train", "a", "song", rows, limits={"vocals": 8000.0})
    write_track(tmp_path, "train", "b", "bank", {"vocals": noise(7)})
    shares = {"backings": 0.0, "negatives": 0.0, "drop": 0.0, "sparse": 0.0, "dull": 0.0}
    free = {**shares, "codec": 0.0, "bright": 0.0, "aligned": 1.0}

    def highs(audio):
        spectrum = torch.fft.rfft(audio * torch.hann_window(LENGTH)).abs().square()
        return float(spectrum[..., 12500:].mean() / spectrum[..., :5000].mean())

    for walled, ends in ((0.0, True), (1.0, False)):
        config = MixingConfig(walled=walled, muffled=0.0, **free)
        drums = MixtureDataset(tmp_path, "train", LENGTH, config=config).draw(0)[1][1]
        assert (highs(drums) < 1e-3) is ends
    for muffled, ends in ((0.0, False), (1.0, True)):
        config = MixingConfig(walled=1.0, muffled=muffled, flat=0.0, **free)
        sources = MixtureDataset(tmp_path, "train", LENGTH, config=config).draw(0)[1]
        # saturation may come after the filter
        assert (highs(sources[0]) < 1e-2) is ends
        assert highs(sources[1]) > 1e-2


def test_a_backing_in_mono_has_sides_where_it_is_put_into_a_room(backed):
    def sides(roomy):
        config = MixingConfig(backings=1, sung=0, codec=0, flat=0, roomy=roomy)
        dataset = MixtureDataset(backed, "train", LENGTH, config=config)
        mixtures = [dataset.draw(index)[0].numpy() for index in range(40)]
        # a position in the middle of the two channels or beside it makes no difference
        ranks = [np.linalg.svd(mixture, compute_uv=False) for mixture in mixtures]
        return np.mean([least > 0.01 * most for most, least in ranks])

    assert sides(0.0) == 0
    assert sides(0.7) == pytest.approx(0.7, abs=0.22)
