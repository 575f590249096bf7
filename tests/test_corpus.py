"""The corpus on disk, song folders, banks, and the build."""

from __future__ import annotations

import json
import os
import pickle
import runpy
import shutil
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from tiny_material import FILES, RATE, make_song, tone

from moises_light import weights
from moises_light.training import banks, build, corpus, evaluate, keys, render, songs
from moises_light.training.config import TrainConfig
from moises_light.training.corpus import Corpus, write_track
from moises_light.training.mixing import MixtureDataset


def noise(seed, seconds=2.0, level=0.1):
    rng = np.random.default_rng(seed)
    return (level * rng.standard_normal((2, int(seconds * RATE)))).astype(np.float32)


def test_a_track_comes_back_as_it_was_written(tmp_path):
    stems = {"vocals": noise(0), "drums": noise(1)}
    write_track(tmp_path, "train", "a", "song", stems, material=["tests"])
    opened = Corpus(tmp_path, "train")
    (track,) = opened.tracks
    assert (track.kind, track.rows, track.material) == ("song", ("vocals", "drums"), ("tests",))
    for source, audio in stems.items():
        read = opened.read(track, source, 1000, 5000)
        # one gain of 32000/32768 for headroom, then half a step of 16 bits
        expected = audio[:, 1000:6000] * 32000 / 32768
        np.testing.assert_allclose(read, expected, atol=0.5001 / 32768)


def test_outside_a_track_there_is_silence(tmp_path):
    track = write_track(tmp_path, "train", "a", "song", {"bass": noise(0)})
    opened = Corpus(tmp_path)
    before = opened.read(track, "bass", -100, 200)
    assert not before[:, :100].any()
    assert before[:, 100:].any()
    assert not opened.read(track, "vocals", 0, 200).any()


def test_a_silent_stem_is_spoken_for_and_takes_no_room(tmp_path):
    stems = {"vocals": np.zeros((2, RATE), np.float32), "bass": tone(50, 1)}
    track = write_track(tmp_path, "train", "a", "band", stems)
    assert track.present == ("vocals", "bass")
    assert track.rows == ("bass",)
    assert np.load(tmp_path / "train" / "a.npy").shape == (1, 2, RATE)


@pytest.mark.parametrize(("decibels", "kept"), [(-35, True), (-70, False)])
def test_what_leaks_into_a_stem_is_taken_for_silence(tmp_path, caplog, decibels, kept):
    """A draw would raise it to the level of a singer."""
    guitar = noise(0)
    leaks = guitar * np.float32(10 ** (decibels / 20))
    with caplog.at_level("INFO"):
        track = write_track(tmp_path, "train", "a", "song", {"vocals": leaks, "other": guitar})
    assert track.present == ("vocals", "other")
    assert set(track.rows) == set(track.level) == set(track.activity)
    assert ("vocals" in track.rows) is kept
    assert ("a: vocals at -90 dB is too faint, taken for silent" in caplog.messages) is not kept
    opened = Corpus(tmp_path)
    read = opened.read(track, "other", 0, 5000)
    np.testing.assert_allclose(read, guitar[:, :5000] * 32000 / 32768, atol=0.5001 / 32768)


@pytest.mark.parametrize(("level", "rows"), [(-55.0, ("bass",)), (-65.0, ())])
def test_a_stem_alone_is_kept_down_to_60_db(tmp_path, level, rows):
    quiet = noise(0, level=10 ** (level / 20))
    assert write_track(tmp_path, "train", "a", "bank", {"bass": quiet}).rows == rows
    assert len(np.load(tmp_path / "train" / "a.npy")) == len(rows)


def test_loud_stems_are_scaled_by_one_gain(tmp_path):
    stems = {"vocals": tone(300, 1, level=3.0), "bass": tone(50, 1, level=0.3)}
    track = write_track(tmp_path, "train", "a", "song", stems)
    opened = Corpus(tmp_path)
    vocals, bass = (opened.read(track, s, 0, RATE) for s in ("vocals", "bass"))
    assert np.abs(vocals).max() < 1
    assert np.abs(vocals).max() / np.abs(bass).max() == pytest.approx(10, rel=1e-2)


def test_activity_tells_sound_from_silence(tmp_path):
    audio = np.concatenate([np.zeros((2, RATE), np.float32), noise(0, 1)], axis=1)
    track = write_track(tmp_path, "train", "a", "song", {"drums": audio})
    assert list(track.activity["drums"]) == [-99, -99, -20, -20]
    assert track.level["drums"] == pytest.approx(-20, abs=0.5)
    assert corpus.hours([track], "drums") == pytest.approx(1 / 3600)


def test_rescan_takes_up_new_tracks_and_waits_for_half_a_line(tmp_path):
    write_track(tmp_path, "train", "a", "song", {"bass": noise(0)})
    opened = Corpus(tmp_path)
    assert opened.rescan() == 0
    write_track(tmp_path, "train", "b", "song", {"bass": noise(1)})
    index = tmp_path / "train" / "index.jsonl"
    whole = index.read_bytes()
    index.write_bytes(whole[:-10])
    assert opened.rescan() == 0
    index.write_bytes(whole)
    assert opened.rescan() == 1
    assert [track.name for track in opened.tracks] == ["a", "b"]


def test_half_a_line_of_a_full_disk_spoils_no_other(tmp_path, caplog):
    write_track(tmp_path, "train", "a", "song", {"bass": noise(0)})
    opened = Corpus(tmp_path)
    index = tmp_path / "train" / "index.jsonl"
    with index.open("ab") as file:
        file.write(b'{"name":"b","kind":"so')
    assert opened.rescan() == 0
    assert not caplog.text
    write_track(tmp_path, "train", "b", "song", {"bass": noise(1)})
    with index.open("ab") as file:
        file.write(b'\n[1]\n{"name":"c"}\n')
    write_track(tmp_path, "train", "c", "song", {"bass": noise(2)})
    assert opened.rescan() == 2
    assert [track.name for track in opened.tracks] == ["a", "b", "c"]
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 3
    assert told[0] == f"""{index}: left out a broken line, b'{{"name":"b","kind":"so'"""


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def fill_the_disk(file, array):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "save", fill_the_disk)
    with pytest.raises(OSError, match="no space left"):
        write_track(tmp_path, "train", "a", "song", {"bass": noise(0)})
    assert list((tmp_path / "train").iterdir()) == []


def test_a_full_disk_is_told_with_the_file(tmp_path, monkeypatch):
    def fill_the_disk(file, array):
        raise OSError("1411200 requested and 524224 written")  # all that numpy says

    monkeypatch.setattr(np, "save", fill_the_disk)
    with pytest.raises(OSError, match=r"a\.npy cannot be written \(1411200.*disk has room"):
        write_track(tmp_path, "train", "a", "song", {"bass": noise(0)})


def test_of_two_lines_of_one_name_the_last_counts(tmp_path):
    write_track(tmp_path, "train", "a", "song", {"vocals": noise(0), "bass": noise(1)})
    opened = Corpus(tmp_path)
    opened.read(opened.tracks[0], "bass", 0, 100)
    write_track(tmp_path, "train", "a", "song", {"bass": noise(2, 1.0)})
    assert opened.rescan() == 1
    for found in (opened, Corpus(tmp_path)):
        (track,) = found.tracks
        assert track.rows == ("bass",)
        read = found.read(track, "bass", 0, 100)
        np.testing.assert_allclose(read, noise(2, 1.0)[:, :100] * 32000 / 32768, atol=2e-5)


def test_audio_that_is_missing_or_no_longer_whole_is_told_in_a_sentence(tmp_path):
    write_track(tmp_path, "train", "a", "song", {"bass": noise(0)})
    path = tmp_path / "train" / "a.npy"
    whole = path.read_bytes()
    write_track(tmp_path, "train", "b", "song", {"bass": noise(0, 1.0)})
    another = (tmp_path / "train" / "b.npy").read_bytes()
    for content in (whole[:-100], b"", b"no array", another, None):
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        opened = Corpus(tmp_path)
        with pytest.raises(ValueError, match=r"a\.npy is missing, .* delete its line in index\.js"):
            opened.read(opened.tracks[0], "bass", 0, 100)
        path.touch()


def test_the_tracks_used_last_stay_open(tmp_path, monkeypatch):
    """An open map holds an open file, of which a process has no more than about a thousand."""
    monkeypatch.setattr(corpus, "OPEN_TRACKS", 2)
    for name in "abc":
        write_track(tmp_path, "train", name, "song", {"bass": noise(ord(name))})
    opened = Corpus(tmp_path)
    a, b, c = opened.tracks
    maps = {track.name: weakref.ref(opened.audio(track)) for track in (a, b)}
    first = opened.read(a, "bass", 0, 100)
    assert opened.audio(a) is maps["a"]()
    opened.audio(c)
    assert maps["a"]() is not None
    assert maps["b"]() is None
    opened.audio(b)
    assert maps["a"]() is None
    np.testing.assert_array_equal(opened.read(a, "bass", 0, 100), first)


def test_a_split_that_is_missing_is_told_with_what_makes_it(tmp_path):
    with pytest.raises(ValueError, match="no split 'hold'; choose one of train, heldout, backed"):
        Corpus(tmp_path, "hold")
    with pytest.raises(ValueError, match="--backings BACKINGS --heldout 16"):
        Corpus(tmp_path, "backed")


def test_an_open_corpus_travels_to_worker_processes(tmp_path):
    track = write_track(tmp_path, "train", "a", "song", {"bass": noise(0)})
    opened = Corpus(tmp_path)
    here = opened.read(track, "bass", 0, 100)
    there = pickle.loads(pickle.dumps(opened)).read(track, "bass", 0, 100)
    np.testing.assert_array_equal(here, there)


def test_what_cannot_be_written_or_opened_says_why(tmp_path):
    with pytest.raises(ValueError, match=r"choose a split of .*train.*heldout"):
        write_track(tmp_path, "test", "a", "song", {"bass": noise(0)})
    with pytest.raises(ValueError, match="one or more of vocals, drums, bass, other"):
        write_track(tmp_path, "train", "a", "song", {"tuba": noise(0)})
    with pytest.raises(ValueError, match="different shapes"):
        write_track(tmp_path, "train", "a", "song", {"bass": noise(0), "other": noise(0, 1)})
    with pytest.raises(ValueError, match=r"make one with python -m moises_light\.training\.build"):
        Corpus(tmp_path / "nowhere")


def test_a_song_folder_of_musdb_is_read(tmp_path):
    names = {"mixture": 100, "vocals": 300, "drums": 400, "bass": 50, "other": 600}
    make_song(tmp_path / "Band - Song", names)
    ((path, song),) = songs.find_songs(tmp_path)
    stems = songs.read_song(path, song)
    assert set(song.present) == set(stems) == {"vocals", "drums", "bass", "other"}
    assert stems["vocals"].shape == (2, 2 * RATE)
    assert peak_hertz(stems["bass"]) == pytest.approx(50, abs=1)


def test_a_song_folder_of_moisesdb_is_read(tmp_path):
    folder = tmp_path / "0a1b"
    make_song(folder, {"vocals/lead": 300, "drums/kick": 60, "percussion/shaker": 5000})
    make_song(folder, {"guitar/clean": 500, "piano/grand": 700, "other_keys/synth": 900})
    (folder / "data.json").write_text(json.dumps({"song": "x"}))
    ((path, song),) = songs.find_songs(tmp_path)
    stems = songs.read_song(path, song)
    assert set(stems) == {"vocals", "drums", "other"}
    # the list of the whole song makes the bass silent rather than unknown
    assert set(song.present) == {"vocals", "drums", "bass", "other"}
    # percussion is in `other`, as in the dataset's official four stems
    for source, parts in {"drums": [60], "other": [500, 700, 900, 5000]}.items():
        spectrum = np.abs(np.fft.rfft(stems[source][0]))
        loud = np.flatnonzero(spectrum > 0.5 * spectrum.max()) / 2
        assert sorted(loud) == parts


def test_percussion_elsewhere_joins_the_drums(tmp_path):
    make_song(tmp_path / "song", {"drums": 60, "percussion": 5000})
    ((_, song),) = songs.find_songs(tmp_path)
    names = {source: [path.stem for path in files] for source, files in song.files.items()}
    assert names == {"drums": ["drums", "percussion"]}


def test_what_begins_with_a_dot_is_no_part_of_a_song(tmp_path, caplog):
    root = tmp_path / ".hidden"  # but the folder that is given may have such a name
    make_song(root / "song", {"vocals": 300, "drums/kick": 60, ".cache/bass": 50})
    for name in ("song/._vocals.wav", "song/drums/._kick.wav", "._vocals.wav", "._Song.stem.mp4"):
        (root / name).write_bytes(b"no audio")
    for name in ("song/.mixture.wav", ".trash/deep/bass.wav", "song/drums/.old/snare.wav"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"no audio")
    ((path, song),) = songs.find_songs(root)
    assert song.name == "song"
    assert song.files == {
        "vocals": [path / "vocals.wav"],
        "drums": [path / "drums" / "kick.wav"],
    }
    assert songs.read_mixture(path, song) is None
    assert not caplog.text


def test_a_song_without_some_stems_does_not_speak_for_them(tmp_path, caplog):
    make_song(tmp_path / "song", {"guitar": 500, "vocals": 300, "bass_other_mixed": 80})
    ((path, song),) = songs.find_songs(tmp_path)
    assert set(song.present) == {"vocals", "other"}
    assert set(songs.read_song(path, song)) == {"vocals", "other"}
    assert "bass_other_mixed" in caplog.text


def test_other_rates_lengths_and_mono_come_out_alike(tmp_path):
    make_song(tmp_path / "song", {"vocals": 300}, seconds=2, rate=22050)
    make_song(tmp_path / "song", {"bass": 50}, seconds=1)
    ((path, song),) = songs.find_songs(tmp_path)
    stems = songs.read_song(path, song)
    assert stems["vocals"].shape == stems["bass"].shape == (2, 2 * RATE)
    assert peak_hertz(stems["vocals"]) == pytest.approx(300, abs=1)
    assert not stems["bass"][:, RATE:].any()
    assert songs.to_stereo(np.ones((1, 4))).shape == (2, 4)


def write_aac(path: Path, hertz: list[int]) -> None:
    """A file with a stream for each tone, a second long."""
    with av.open(str(path), "w", format="mp4") as container:
        streams = [container.add_stream("aac", rate=RATE, layout="stereo") for _ in hertz]
        for stream, f in zip(streams, hertz, strict=True):
            audio = np.ascontiguousarray(tone(f, 1.0))
            frame = av.AudioFrame.from_ndarray(audio, format="fltp", layout="stereo")
            frame.sample_rate = RATE
            for packet in [*stream.encode(frame), *stream.encode(None)]:
                container.mux(packet)


def test_the_streams_of_a_stem_file_are_told_apart(tmp_path):
    hertz = {"mixture": 100, "drums": 400, "bass": 150, "other": 600, "vocals": 300}
    path = tmp_path / "Song.stem.mp4"
    write_aac(path, list(hertz.values()))
    ((found, song),) = songs.find_songs(tmp_path)
    stems = songs.read_song(found, song)
    for source in song.present:
        assert peak_hertz(stems[source]) == pytest.approx(hertz[source], abs=2)
    mixture = songs.read_mixture(found, song)
    assert mixture is not None
    assert peak_hertz(mixture) == pytest.approx(hertz["mixture"], abs=2)


def test_a_broken_stem_file_is_named(tmp_path):
    path = tmp_path / "Song.stem.mp4"
    path.write_bytes(b"no audio")
    with pytest.raises(ValueError, match=r"Song\.stem\.mp4 cannot be read as audio"):
        songs.read_stream(path, 0)


def test_a_stem_in_two_formats_is_no_louder(tmp_path, caplog):
    make_song(tmp_path / "song", {"vocals": 300.0, "drums/kick": 60.0, "lead_vocals": 400.0})
    ((path, song),) = songs.find_songs(tmp_path)
    alone = songs.read_song(path, song)
    assert not caplog.text
    for name, other in (("vocals", "Vocals.mp3"), ("drums/kick", "drums/kick.flac")):
        read, rate = soundfile.read(path / f"{name}.wav")
        soundfile.write(path / other, read, rate)
    make_song(path / "vocals", {"verse": 300.0})  # and its parts beside the whole
    ((path, song),) = songs.find_songs(tmp_path)
    twice = songs.read_song(path, song)
    for source, stem in alone.items():
        np.testing.assert_array_equal(twice[source], stem)
    left_out = {path / "Vocals.mp3", path / "drums/kick.flac", path / "vocals/verse.wav"}
    assert {Path(line.split(": the same stem as ")[0]) for line in caplog.messages} == left_out


def test_of_two_mixtures_the_one_without_loss_is_read(tmp_path):
    make_song(tmp_path / "song", {"vocals": 300.0, "mixture": 100.0})
    soundfile.write(tmp_path / "song" / "mix.mp3", np.zeros((44100, 2)), 44100)
    ((path, song),) = songs.find_songs(tmp_path)
    mixture = songs.read_mixture(path, song)
    assert mixture is not None
    assert peak_hertz(mixture) == pytest.approx(100, abs=2)


def test_linked_folders_are_read_and_loops_end(tmp_path):
    make_song(tmp_path / "elsewhere" / "One", {"vocals": 300.0, "drums/kick": 60.0})
    root = tmp_path / "songs"
    make_song(root / "Two", {"vocals": 300.0})
    (root / "disk").symlink_to("../elsewhere")
    (root / "Two" / "drums").symlink_to(tmp_path / "elsewhere" / "One" / "drums")
    (root / "loop").symlink_to("..")
    (tmp_path / "elsewhere" / "back").symlink_to(root)
    found = {song.name: set(song.files) for _, song in songs.find_songs(root)}
    assert found == {"disk - One": {"vocals", "drums"}, "Two": {"vocals", "drums"}}


def test_a_song_with_a_link_to_nothing_is_left_out(tmp_path, caplog):
    """As datalad leaves it: without its voice it would be taught as an instrumental."""
    make_song(tmp_path / "songs" / "one", {"drums": 60.0})
    make_song(tmp_path / "songs" / "two", {"drums": 60.0})
    link = tmp_path / "songs" / "one" / "vocals.wav"
    link.symlink_to("../.git/annex/objects/none.wav")
    assert build.main([str(tmp_path / "corpus"), "--songs", str(tmp_path / "songs")]) == 0
    assert [track.name for track in Corpus(tmp_path / "corpus").tracks] == ["song-two"]
    assert f"{link} is a link to nothing; fetch the file" in caplog.text


def test_the_folder_of_one_song_is_that_song(tmp_path, caplog):
    make_song(tmp_path / "maker" / "song", {"vocals": 300, "mixture": 100})
    for folder in (tmp_path, tmp_path / "maker", tmp_path / "maker" / "song"):
        ((path, song),) = songs.find_songs(folder)
        assert path == tmp_path / "maker" / "song"
        assert set(song.files) == {"vocals"}
    assert not caplog.text
    mixture = songs.read_mixture(path, song)
    assert mixture is not None
    assert peak_hertz(mixture) == pytest.approx(100, abs=2)


def test_songs_of_one_folder_name_are_told_apart(tmp_path):
    for number, band in enumerate(("A", "B", "C"), start=1):
        make_song(tmp_path / "songs" / band / "stems", {"bass": 50.0 * number}, seconds=number)
    make_song(tmp_path / "songs" / "solo", {"vocals": 300.0}, seconds=5)
    for _ in range(2):  # a second build adds what is new
        assert build.main([str(tmp_path / "corpus"), "--songs", str(tmp_path / "songs")]) == 0
        make_song(tmp_path / "songs" / "0" / "stems", {"bass": 200.0}, seconds=4)
    tracks = {track.name: track for track in Corpus(tmp_path / "corpus", "train").tracks}
    assert {name: round(track.seconds) for name, track in tracks.items()} == {
        "song-A - stems": 1,
        "song-B - stems": 2,
        "song-C - stems": 3,
        "song-0 - stems": 4,
        "song-solo": 5,
    }
    for index in range(20):
        MixtureDataset(tmp_path / "corpus", segment_length=RATE).draw(index)


def test_an_album_may_be_named_like_a_stem(tmp_path, caplog):
    for song in ("Strings/One", "Strings/Organ", "Bass"):
        make_song(tmp_path / song, {"vocals": 300.0, "drums": 100.0})
    make_song(tmp_path / "Piano" / "Solo", {"vocals": 300.0, "mixture": 300.0})
    found = songs.find_songs(tmp_path)
    assert [song.name for _, song in found] == [
        "Bass",
        "Piano - Solo",
        "Strings - One",
        "Strings - Organ",
    ]
    assert all(set(song.files) <= {"vocals", "drums"} for _, song in found)
    assert all(len(files) == 1 for _, song in found for files in song.files.values())
    assert not caplog.text
    # what lies in a stem's own folder are its parts, also where they are of two kinds
    for kind, parts in (
        ("vocals", ("vocals", "mix")),
        ("other", ("strings", "percussion", "other")),
    ):
        make_song(tmp_path / "parts" / kind, dict.fromkeys(parts, 100.0))
    make_song(tmp_path / "parts", {"drums": 100.0})
    ((_, song),) = songs.find_songs(tmp_path / "parts")
    assert {source: len(files) for source, files in song.files.items()} == {
        "drums": 1,
        "vocals": 2,
        "other": 3,
    }
    make_song(tmp_path / "finer" / "guitar", {"strings": 100.0, "piano": 200.0})
    make_song(tmp_path / "finer" / "bass", {"bass": 50.0})
    ((_, song),) = songs.find_songs(tmp_path / "finer")
    assert {source: len(files) for source, files in song.files.items()} == {"other": 2, "bass": 1}


def test_a_song_in_the_current_folder_has_its_name(tmp_path, monkeypatch):
    make_song(tmp_path / "Our song", {"vocals": 300.0})
    (tmp_path / "Our song" / "notes").mkdir()
    for inside, given in (("", "."), ("notes", "..")):
        monkeypatch.chdir(tmp_path / "Our song" / inside)
        ((_, song),) = songs.find_songs(given)
        assert song.name == "Our song"


def test_a_test_set_is_not_trained_on(tmp_path):
    for split in ("train", "test"):
        make_song(tmp_path / "musdb" / split / "song", {"vocals": 300.0})
    for root in ("musdb", "."):
        with pytest.raises(ValueError, match=r"test.song is of a test set, .* as .*musdb.train"):
            build.main([str(tmp_path / "corpus"), "--songs", str(tmp_path / root)])
    assert not (tmp_path / "corpus").exists()
    assert build.main([str(tmp_path / "corpus"), "--songs", str(tmp_path / "musdb" / "train")]) == 0


@pytest.mark.parametrize(
    ("folders", "refused"),
    [
        (("data/set/Train/a", "data/set/Test/b"), True),
        (("train/a", "TEST"), True),
        (("set/test/b",), True),
        (("Test", "a"), False),  # a song of that name
        (("Testament/a", "train/b"), False),
    ],
)
def test_a_test_set_is_found_at_any_depth(tmp_path, monkeypatch, folders, refused):
    for folder in folders:
        make_song(tmp_path / "songs" / folder, {"vocals": 300.0})
    monkeypatch.chdir(tmp_path / "songs")
    for root in (".", str(tmp_path / "songs")):
        paths = [path for path, _ in songs.find_songs(root)]
        if refused:
            with pytest.raises(ValueError, match=r"is of a test set, which must stay unheard"):
                build.refuse_test_set(Path(root), paths)
        else:
            build.refuse_test_set(Path(root), paths)


def test_the_folder_of_a_test_set_itself_may_be_meant(tmp_path):
    make_song(tmp_path / "test" / "a", {"vocals": 300.0})
    assert build.main([str(tmp_path / "corpus"), "--songs", str(tmp_path / "test")]) == 0


def test_of_two_songs_of_one_name_the_second_is_left_out(tmp_path, caplog):
    make_song(tmp_path / "songs" / "A" / "B", {"vocals": 300.0, "drums": 60.0}, seconds=2.0)
    make_song(tmp_path / "songs" / "A - B", {"vocals": 300.0}, seconds=1.0)
    for _ in range(2):  # and a second build says the same
        assert build.main([str(tmp_path / "corpus"), "--songs", str(tmp_path / "songs")]) == 0
        paths = [str(tmp_path / "songs" / name) for name in ("A - B", "A/B")]
        told = [line for line in caplog.messages if all(path in line for path in paths)]
        assert len(told) == 1
        assert "left out" in told[0]
        caplog.clear()
    opened = Corpus(tmp_path / "corpus")
    (track,) = opened.tracks
    assert len((opened.folder / "index.jsonl").read_text().splitlines()) == 1
    assert opened.audio(track).shape == (len(track.rows), 2, track.frames)


def test_songs_of_long_names_are_built_and_told_apart(tmp_path):
    names = ["é" * 120 + end for end in "xy"]  # 241 bytes
    for name in [*names, "z"]:
        make_song(tmp_path / "songs" / name, {"vocals": 300.0})
    for _ in range(2):
        assert build.main([str(tmp_path / "corpus"), "--songs", str(tmp_path / "songs")]) == 0
    tracks = {track.material[0]: track.name for track in Corpus(tmp_path / "corpus").tracks}
    assert set(tracks) == {f"songs/{name}" for name in [*names, "z"]}
    assert len(set(tracks.values())) == 3
    assert tracks["songs/z"] == "song-z"


def test_halves_of_tracks_that_a_killed_build_left_are_cleared(tmp_path):
    make_song(tmp_path / "songs" / "one", {"vocals": 300.0})
    folder = tmp_path / "corpus" / "train"
    folder.mkdir(parents=True)
    old, new = folder / ".song-a.1.part", folder / ".song-b.2.part"
    for path in (old, new):
        path.touch()
    os.utime(old, (0, 0))
    assert build.main([str(tmp_path / "corpus"), "--songs", str(tmp_path / "songs")]) == 0
    assert not old.exists()
    assert new.exists()  # another build may be writing it


@pytest.mark.skipif(os.name == "nt", reason="Windows kills at once")
def test_a_build_that_is_told_to_end_leaves_no_half_track(tmp_path, monkeypatch):
    make_song(tmp_path / "songs" / "one", {"vocals": 300.0})

    def told_to_end(file, array):
        file.write(b"half")
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(np, "save", told_to_end)
    # should the signal find no handler of ours
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with pytest.raises(KeyboardInterrupt):
            build.main([str(tmp_path / "corpus"), "--songs", str(tmp_path / "songs")])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert list((tmp_path / "corpus" / "train").iterdir()) == []


def fail_or_note(corpus, split, name, seed, seconds):
    """In place of a band: the first fails, each other leaves a file."""
    if name == "band-0000":
        raise ValueError("no such sound")
    time.sleep(0.2)
    (corpus / name).touch()


def test_a_band_that_fails_ends_the_build_soon(tmp_path, bank_folder, monkeypatch):
    monkeypatch.setattr(build, "_band_of_kept", fail_or_note)
    studio = render.Studio(banks.Bank(bank_folder, held_out=False))
    with pytest.raises(ValueError, match="no such sound"):
        build.add_bands(tmp_path, "train", studio, 0, 40, lambda track: None, jobs=2)
    assert len(list(tmp_path.glob("band-*"))) < 15


def test_an_unreadable_file_is_named(tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    with pytest.raises(ValueError, match=r"bad\.wav cannot be read as audio"):
        songs.read_audio(tmp_path / "bad.wav")
    (tmp_path / "vocals.wav").write_bytes(b"no audio")
    song = songs.find_song(tmp_path)
    assert song is not None
    with pytest.raises(ValueError, match=r"vocals\.wav"):
        songs.read_song(tmp_path, song)


def test_a_song_with_a_damaged_stem_is_left_out(tmp_path, caplog):
    for name in ("good", "cut", "worse"):
        make_song(tmp_path / "songs" / name, {"vocals": 300.0, "bass": 50.0})
    cut = tmp_path / "songs" / "cut" / "vocals.wav"
    cut.write_bytes(cut.read_bytes()[:100_000])
    worse = tmp_path / "songs" / "worse" / "bass.wav"
    worse.write_bytes(b"no audio")
    command = [str(tmp_path / "corpus"), "--songs", str(tmp_path / "songs")]
    assert build.main(command) == 0
    assert [track.name for track in Corpus(tmp_path / "corpus").tracks] == ["song-good"]
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == 2
    assert told[0].startswith(f"{cut}: vocals.wav is damaged")
    assert told[1].startswith(f"{worse}: bass.wav holds no audio")
    assert all(line.endswith("; the song is left out") for line in told)
    shutil.rmtree(tmp_path / "songs" / "good")
    with pytest.raises(ValueError, match=r"no song below .* can be read whole"):
        build.main(command)


def test_damage_is_told_by_the_whole_path(tmp_path, caplog):
    make_song(tmp_path, {"vocals": 300.0, "mixture": 300.0})
    for name in ("vocals", "mixture"):
        path = tmp_path / f"{name}.wav"
        path.write_bytes(path.read_bytes()[:100_000])
    song = songs.find_song(tmp_path)
    assert song is not None
    songs.read_song(tmp_path, song)
    songs.read_mixture(tmp_path, song)
    for line, name in zip(caplog.messages, ("vocals", "mixture"), strict=True):
        assert line.startswith(f"{tmp_path / name}.wav: {name}.wav is damaged")


def test_compressed_stems_are_read(tmp_path):
    write_aac(tmp_path / "vocals.m4a", [300])
    song = songs.find_song(tmp_path)
    assert song is not None
    assert peak_hertz(songs.read_song(tmp_path, song)["vocals"]) == pytest.approx(300, abs=2)


def test_train_and_heldout_material_share_nothing(bank_folder):
    train, held = (banks.Bank(bank_folder, held_out=side) for side in (False, True))
    assert {s.path for s in train.samples}.isdisjoint(s.path for s in held.samples)
    assert {s.material for s in train.samples}.isdisjoint(s.material for s in held.samples)
    assert {"bass/pastabass", "other/emilyguitar"} <= {s.material for s in held.samples}


def test_songs_and_validation_are_no_bank_material(bank_folder):
    both = [banks.Bank(bank_folder, held_out=side).samples for side in (False, True)]
    paths = {sample.path for samples in both for sample in samples}
    assert len(paths) == len(FILES) - 2
    assert not any(path.startswith(("songs/", "validation/")) for path in paths)


def test_a_bank_tells_how_many_of_its_files_are_missing(bank_folder, tmp_path, caplog):
    table = (bank_folder / "LICENSES.tsv").read_text()
    paths = [line.split("\t")[0] for line in table.splitlines()[1:]]
    kept = next(path for path in paths if path.startswith("bass/growlybass"))
    (tmp_path / kept).parent.mkdir(parents=True)
    shutil.copy(bank_folder / kept, tmp_path / kept)
    (tmp_path / "LICENSES.tsv").write_text(table)
    banks.Bank(bank_folder, held_out=False)
    assert not caplog.messages
    assert [s.path for s in banks.Bank(tmp_path, held_out=False).samples] == [kept]
    others = [p for p in paths if p != kept and not p.startswith(("songs/", "validation/"))]
    assert f"lacks {len(others)} of the files" in caplog.text
    assert others[0] in caplog.text


HEAD = "path\tclass\tsource\tauthor\tlicence"
ROW = "a.wav\tvocals\tmine\tMe\tCC0-1.0"


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (HEAD.replace("\t", ",") + "\n", "line 1: give the columns path, class, source, author, l"),
        (HEAD.removesuffix("\tlicence") + "\n", "line 1: give the columns path, class, source"),
        ("", "line 1: give the columns"),
        (f"{HEAD}\n{ROW}\na.wav\tvocals\n", "line 3: give the columns path, class, source"),
        (f"{HEAD}\tseconds\n{ROW}\t3 s\n", "line 2: seconds is '3 s'; give a number such as 1.5"),
        (f"{HEAD}\n{ROW}\n".encode("utf-16"), "cannot be read as a table in UTF-8"),
    ],
)
def test_a_table_by_hand_that_is_wrong_is_told_by_its_line(tmp_path, table, words):
    soundfile.write(tmp_path / "a.wav", tone(220, 1.5).T, RATE)
    data = table if isinstance(table, bytes) else table.encode()
    (tmp_path / "LICENSES.tsv").write_bytes(data)
    with pytest.raises(ValueError, match=words) as told:
        banks.Bank(tmp_path, held_out=False)
    assert str(tmp_path / "LICENSES.tsv") in str(told.value)


@pytest.mark.parametrize("seconds", [False, True])
def test_a_table_by_hand_needs_no_lengths_and_may_begin_with_a_mark(tmp_path, seconds):
    soundfile.write(tmp_path / "a.wav", tone(220, 1.5).T, RATE)
    more = ("\tseconds", "\t") if seconds else ("", "")
    table = f"\ufeff{HEAD}{more[0]}\r\n{ROW}{more[1]}\r\n"
    (tmp_path / "LICENSES.tsv").write_bytes(table.encode())
    (sample,) = banks.Bank(tmp_path, held_out=False).samples
    assert (sample.path, sample.licence, sample.seconds) == ("a.wav", "CC0-1.0", 1.5)


def test_licences_of_songs_are_read_with_a_mark_and_told_where_they_are_short(tmp_path):
    table = tmp_path / "LICENSES.tsv"
    row = "songs/one/vocals.wav\tvocals\tmine\tMe\tCC0-1.0"
    table.write_bytes(f"\ufeff{row}\n".encode())
    assert build.song_licences(tmp_path) == [("songs/one", "mine", "Me", "CC0-1.0")]
    table.write_text(f"{HEAD}\n{row}\nsongs/two/vocals.wav\tvocals\n")
    with pytest.raises(ValueError, match=r"LICENSES\.tsv, line 3: give the columns"):
        build.song_licences(tmp_path)


def test_notes_are_played_at_their_pitch(bank_folder):
    bank = banks.Bank(bank_folder, held_out=False)
    bass = banks.Instrument(bank, bank.under("bass/growlybass"))
    # its files are named an octave too high: a2 sounds 55 Hz, MIDI 33
    assert bass.range == (33, 36)
    for midi in (31, 33, 35):
        audio = bass.play(midi, 0.7, 0.9, np.random.default_rng(0))
        assert banks.pitch_of(audio) == pytest.approx(midi, abs=0.3)


def test_pitch_of_noise_is_none():
    assert banks.pitch_of(noise(0)) is None
    assert banks.pitch_of(tone(440, 1)) == pytest.approx(69, abs=0.2)


def test_a_build_gives_the_same_bits_and_goes_on_where_it_stood(tmp_path, bank_folder, capsys):
    make_song(tmp_path / "songs" / "one", {"vocals": 300, "drums": 90, "bass": 50, "other": 600})
    made = []
    for name in ("first", "second"):
        target = tmp_path / name
        command = [str(target), "--songs", str(tmp_path / "songs"), "--banks", str(bank_folder)]
        assert build.main([*command, "--collages", "3"]) == 0
        if name == "second":
            # as if it had been stopped before the last track
            index = target / "train" / "index.jsonl"
            lines = index.read_text().splitlines(keepends=True)
            index.write_text("".join(lines[:-1]))
            assert build.main([*command, "--collages", "3"]) == 0
        made.append({p.name: p.read_bytes() for p in (target / "train").iterdir()})
    assert sorted(made[0]) == sorted(made[1])
    assert made[0] == made[1]
    printed = corpus.describe(tmp_path / "first")
    assert "CC0-1.0 | tests | A. Tester | " in printed
    assert printed.splitlines()[-1] == "without a licence row: songs/one"


def make_backings(folder: Path) -> Path:
    """Two pieces of music with a table, one of them held out."""
    rows = ["path\tclass\tsource\tauthor\tlicence\tnote\tseconds"]
    for name in ("somebody/one.wav", "gigalomania-data/gamemusic.wav"):
        (folder / name).parent.mkdir(parents=True)
        soundfile.write(folder / name, noise(len(name), 3.0).T, RATE)
        rows.append(f"{name}\tbacking\ttests\tA. Tester\tCC0-1.0\t\t3.0")
    (folder / "LICENSES.tsv").write_text("\n".join(rows) + "\n")
    return folder


def test_backings_are_kept_whole_and_the_held_out_ones_get_a_singer(tmp_path, bank_folder):
    backings, out = make_backings(tmp_path / "backings"), tmp_path / "corpus"
    command = [str(out), "--banks", str(bank_folder), "--backings", str(backings)]
    assert build.main([*command, "--heldout", "1"]) == 0
    (track,) = Corpus(out, "train").tracks
    assert (track.kind, track.rows, track.present) == ("backing", ("backing",), ())
    assert track.material == ("somebody/one.wav",)
    opened = Corpus(out, "backed")
    (track,) = opened.tracks
    assert track.rows == ("vocals", "backing")
    assert set(track.material) > {"gigalomania-data/gamemusic.wav"}
    singers = set(track.material) - {"gigalomania-data/gamemusic.wav"}
    assert all(name.startswith(banks.HELD_OUT) for name in singers)
    (scored,) = evaluate.corpus_tracks(out, "backed")
    assert list(scored.sources) == ["vocals"]
    backing = opened.read(track, "backing", 0, track.frames)
    rest = scored.mixture - scored.sources["vocals"]
    np.testing.assert_allclose(rest.numpy(), backing, atol=1e-6)
    # the same singer in the key of the music: other notes, as loud
    (in_key,) = Corpus(out, "in_key").tracks
    assert in_key.material == track.material
    assert in_key.level == pytest.approx(track.level, abs=0.2)
    tuned = Corpus(out, "in_key").read(in_key, "vocals", 0, in_key.frames)
    assert np.abs(tuned - opened.read(track, "vocals", 0, track.frames)).max() > 0.01
    # a second build finds everything there
    before = {split: (out / split / "index.jsonl").read_text() for split in ("backed", "in_key")}
    assert build.main([*command, "--heldout", "1"]) == 0
    assert {split: (out / split / "index.jsonl").read_text() for split in before} == before
    assert "somebody/one.wav" in corpus.describe(out)


def test_phrases_of_a_collage_are_moved_into_the_key_of_what_plays_behind(bank_folder):
    singers = banks.Bank(bank_folder, held_out=True)
    fits = {}
    for semitones in (-2.5, 1.0, 2.5):
        behind = tone(262 * 2 ** (semitones / 12), 6.0)  # the only held-out singer's is 262 Hz
        for music in (None, behind):
            rng = np.random.default_rng(3)
            vocals, _, _ = banks.vocal_collage(singers, 5.0, rng, music)
            found = keys.agreement(keys.chroma(vocals), keys.chroma(behind))[0]
            fits.setdefault(music is None, []).append(found)
    assert min(fits[False]) > 0.5
    assert max(fits[True]) < 0.5


def test_a_folder_without_backings_is_told(tmp_path, bank_folder):
    with pytest.raises(ValueError, match="lists with the class backing"):
        build.main([str(tmp_path / "corpus"), "--backings", str(bank_folder)])


def test_bandwidth_is_where_the_highs_end():
    music = noise(0, 4.0)
    assert build.bandwidth(music) is None
    spectrum = np.fft.rfft(music)
    spectrum[:, spectrum.shape[1] * 11000 // 22050 :] = 0
    assert build.bandwidth(np.fft.irfft(spectrum)) == pytest.approx(11000, abs=50)


def test_a_wall_is_where_an_encoder_cut_the_highs_off():
    falling = np.fft.rfft(noise(0, 8.0))
    frequencies = np.linspace(0, 22050, falling.shape[1])
    falling *= 10 ** (-frequencies / 1000 * 3 / 20)  # 3 dB a kHz, as a voice may fall
    assert build.wall(np.fft.irfft(falling)) is None
    assert build.wall(np.zeros((2, 100_000))) is None
    assert build.wall(np.zeros((2, 100))) is None
    cut = falling * np.where(frequencies > 11000, 10 ** (-20 / 20), 1.0)
    assert build.wall(np.fft.irfft(cut)) == pytest.approx(11000, abs=150)
    # a bass over a floor of noise that a low rate has cut off
    floor = noise(0, 8.0) * 10 ** (-100 / 20)
    ends = np.fft.rfft(floor) * (frequencies < 12000)
    bass = np.fft.rfft(noise(1, 8.0)) * (frequencies < 2000)
    assert build.wall(np.fft.irfft(bass + ends)) is None
    assert build.wall(np.fft.irfft(ends)) == pytest.approx(12000, abs=150)
    # what rises again is no end
    again = cut * np.where(frequencies > 13000, 10 ** (25 / 20), 1.0)
    assert build.wall(np.fft.irfft(again)) is None


@pytest.mark.parametrize(("rate", "end"), [(8000, 4000), (12000, 6000), (44100, None)])
def test_a_stem_of_a_low_rate_ends_where_that_does(tmp_path, rate, end):
    for name, r, seed in (("vocals", rate, 0), ("drums", RATE, 1)):
        path = tmp_path / "songs" / "one" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * np.random.default_rng(seed).standard_normal(4 * r), r)
    build.add_songs(tmp_path / "corpus", tmp_path / "songs", lambda track: None)
    (track,) = Corpus(tmp_path / "corpus").tracks
    assert track.end_of("vocals") == end
    assert track.end_of("drums") is None


def test_a_song_whose_voice_is_cut_off_says_so(tmp_path):
    voice = np.fft.rfft(noise(1, 8.0))
    voice[:, voice.shape[1] * 10000 // 22050 :] *= 0.01
    stems = {"vocals": np.fft.irfft(voice), "drums": noise(2, 8.0)}
    for source, stem in stems.items():
        path = tmp_path / "songs" / "one" / f"{source}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, stem.T, RATE)
    build.add_songs(tmp_path / "corpus", tmp_path / "songs", lambda track: None)
    (track,) = corpus.Corpus(tmp_path / "corpus").tracks
    assert track.end_of("vocals") == pytest.approx(10000, abs=150)
    assert track.end_of("drums") is None


def test_a_bank_of_ones_own_names_is_built_from(tmp_path, caplog):
    """Nothing in it is called as in our bank: what it has sings, synthetic sounds play the rest."""
    rows = ["path\tclass\tsource\tauthor\tlicence\tnote\tseconds"]
    for name, source in (("vocals/me/song.wav", "vocals"), ("drums/kit/kick.wav", "drums")):
        (tmp_path / "bank" / name).parent.mkdir(parents=True)
        soundfile.write(tmp_path / "bank" / name, tone(220, 3, channels=1).T, RATE)
        rows.append(f"{name}\t{source}\tmine\tMe\tCC0-1.0\t-\t3")
    (tmp_path / "bank" / "LICENSES.tsv").write_text("\n".join(rows) + "\n")
    command = [str(tmp_path / "corpus"), "--banks", str(tmp_path / "bank")]
    assert build.main([*command, "--collages", "4", "--bands", "2"]) == 0
    names = {track.name for track in Corpus(tmp_path / "corpus", "train").tracks}
    assert names == {f"bank-vocals-{n:03d}" for n in range(4)} | {"band-0000", "band-0001"}
    assert "the bank has no bass to string together" in caplog.text


def test_a_note_does_not_depend_on_those_before_it(bank_folder):
    bank = banks.Bank(bank_folder, held_out=False)
    fresh, used = (banks.Instrument(bank, bank.under("bass/growlybass")) for _ in range(2))
    used.play(33.1975, 0.7, 0.5, np.random.default_rng(0))
    note = fresh.play(33.203, 0.7, 0.5, np.random.default_rng(0))
    np.testing.assert_array_equal(used.play(33.203, 0.7, 0.5, np.random.default_rng(0)), note)


COMMANDS_ON_NOTHING = (
    # module, its arguments, what the one line names
    ("moises_light.training.build", ("corpus", "--banks", "nowhere"), "LICENSES.tsv"),
    ("moises_light.training.build", ("corpus", "--songs", "nowhere"), "nowhere is not a folder"),
    ("moises_light.training.build", ("corpus", "--songs", "."), "holds no song folder"),
    ("moises_light.training.corpus", ("nowhere",), "no corpus at nowhere"),
    ("moises_light.training.build", ("corpus", "--bands", "2"), "name their folder by --banks"),
    ("moises_light.training.cli", ("--corpus", "nowhere", "--folder", "run"), "no corpus at"),
    (
        "moises_light.training.release",
        ("none.safetensors", "--validation", "nowhere", "--notes", "-"),
        "none.safetensors",
    ),
    (
        "moises_light.training.prune",
        ("none.safetensors", "out.safetensors", "--features", "24"),
        "none.safetensors",
    ),
    (
        "moises_light.training.prune",
        ("none.safetensors", "out.safetensors", "--blocks", "5"),
        "none.safetensors",
    ),
    (
        "moises_light.training.average",
        ("none.safetensors", "none.safetensors", "out.safetensors"),
        "none.safetensors",
    ),
    ("bench.corpus", ("nowhere",), "no corpus at nowhere"),
    ("bench.pictures", ("nowhere", "out.png"), "no corpus at nowhere"),
    ("bench.depth", ("none.safetensors", "--corpus", "nowhere"), "no corpus at nowhere"),
    ("bench.alone", ("none.safetensors", "--corpus", "nowhere"), "no corpus at nowhere"),
    ("bench.masks", ("none.wav", "out.png"), "none.wav"),
    ("bench.curves", ("out.html", "nowhere"), "nowhere"),
)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize(
    ("module", "arguments", "told"), COMMANDS_ON_NOTHING, ids=lambda value: str(value)[:40]
)
def test_commands_tell_bad_input_in_one_line(
    module, arguments, told, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__")
    assert ended.value.code == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert told in error
    assert "\n" not in error


NO_NUMBERS = (
    ("moises_light.training.cli", ("--folder", "run", "--threads", "-1"), "'-1': give a whole"),
    ("moises_light.training.cli", ("--folder", "run", "--log-steps", "0"), "number >= 1"),
    ("moises_light.training.prune", ("a", "b", "--batches", "0"), "number >= 1"),
    ("moises_light.training.build", ("corpus", "--jobs", "x"), "'x': give a whole number >= 1"),
    ("moises_light.training.pack", ("a", "b", "--seed", "-1"), "number >= 0"),
    ("bench.precision", ("--segments", "0"), "number >= 1"),
)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize(("module", "arguments", "told"), NO_NUMBERS, ids=str)
def test_numbers_that_are_none_are_refused(module, arguments, told, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__")
    assert ended.value.code == 2
    assert told in capsys.readouterr().err.splitlines()[-1]


def test_commands_tell_in_one_line_which_package_is_missing(tmp_path, tiny_model):
    """As a plain installation has it, without scipy, Pillow and all else that is optional."""
    card = {"run": json.loads(TrainConfig().to_json()), "seed": 0, "steps": 1}
    for name in ("a", "b"):
        weights.save(tiny_model, tmp_path / f"{name}.safetensors", {"card": card})
        next(buffer for key, buffer in tiny_model.named_buffers() if "mean" in key).add_(1)
    missing = {
        "moises_light.training.build": "scipy",
        "moises_light.training.average": "scipy",
        "moises_light.training.prune": "scipy",
        "bench.heldout": "scipy",
        "bench.corpus": "scipy",
        "bench.depth": "scipy",
        "bench.pictures": "PIL",
        "bench.masks": "PIL",
        "bench.curves": "plotly",
        "bench.page": "playwright",
    }
    arguments = {
        "moises_light.training.average": ["a.safetensors", "b.safetensors", "c.safetensors"],
        "moises_light.training.prune": ["a.safetensors", "c.safetensors", "--blocks", "0"],
    }
    commands = {name: arguments.get(name, []) for name in missing}
    packages = {*missing.values(), "pyworld", "fluidsynth"}
    program = (
        "import json, runpy, sys\n"
        f"for name in {sorted(packages)}: sys.modules[name] = None\n"
        "for name, arguments in json.loads(sys.argv[1]).items():\n"
        "    sys.argv = [name, *arguments]\n"
        "    try:\n"
        "        runpy.run_module(name, run_name='__main__')\n"
        "    except SystemExit as ended:\n"
        "        print(name, ended.code)\n"
    )
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, json.dumps(commands)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert told.stdout.splitlines() == [f"{name} 2" for name in commands], told.stderr
    lines = told.stderr.splitlines()
    assert len(lines) == len(missing)
    for line, package in zip(lines, missing.values(), strict=True):
        assert line.startswith(f"error: the package {package}")


def test_a_name_that_the_output_cannot_encode_stops_no_build(tmp_path):
    make_song(tmp_path / "songs" / "Für Elise", {"vocals": 300.0})
    command = [sys.executable, "-m", "moises_light.training.build", "corpus", "--songs", "songs"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONIOENCODING": "ascii",
            "PYTHONPATH": str(Path(__file__).parents[1]),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "song-F\\xfcr Elise" in done.stdout


def peak_hertz(audio):
    spectrum = np.abs(np.fft.rfft(audio[0]))
    return np.argmax(spectrum) * RATE / audio.shape[1]
