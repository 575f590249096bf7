"""The command line: what is written where, what it says, and its exit codes."""

from __future__ import annotations

import inspect
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from torch import Tensor

from moises_light import audio, cli, terminal, weights
from moises_light.config import SOURCES, configs
from moises_light.model import MoisesLight
from moises_light.separation import Separator

RATE = 44_100


@pytest.fixture(autouse=True)
def tiny(
    tiny_model: MoisesLight, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> Path:
    """A folder to work in, with a tiny network's weights that `run` takes."""
    monkeypatch.chdir(tmp_path)
    for name in ("CHECKPOINTS", "REPO", "REVISION", "SHA256"):
        monkeypatch.delenv(f"MOISES_LIGHT_{name}", raising=False)
    path = tmp_path / "tiny.safetensors"
    weights.save(tiny_model, path)
    return path


def song(path: str, seconds: float = 0.5, level: float = 0.3) -> Path:
    """A file of noise."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    noise = torch.rand(round(seconds * RATE), 2, generator=torch.Generator().manual_seed(3))
    sf.write(target, (level * (2 * noise - 1)).numpy(), RATE)
    return target


def run(*arguments: str | Path) -> int:
    """`separate` with the tiny network."""
    common = ["--preset", "tiny.safetensors", "--segment", "0.2", "--device", "cpu"]
    return cli.main(["separate", *map(str, arguments), *common])


def tree(folder: str | Path) -> list[str]:
    root = Path(folder)
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


# --------------------------------------------------------------------------- separate


def test_stems_go_to_a_folder_per_song_and_are_what_the_library_gives(
    tiny_model: MoisesLight, capsys: pytest.CaptureFixture[str]
) -> None:
    path = song("a song.wav")
    assert run(path, "-o", "out", "--format", "wav32f", "--precision", "float32") == 0
    assert tree("out") == [f"a song/{name}.wav" for name in sorted(SOURCES)]
    wanted = Separator(tiny_model, segment=0.2)(audio.load(path))
    for name, stem in zip(SOURCES, wanted, strict=True):
        written = audio.load(f"out/a song/{name}.wav")
        torch.testing.assert_close(written, stem, rtol=0, atol=0)
    printed = capsys.readouterr()
    assert printed.out.startswith(f"a song.wav -> {Path('out/a song')} (0.5 s of music in ")
    assert "times real time)" in printed.out
    assert printed.err == ""  # no progress bar where nobody watches


def test_stems_may_keep_the_songs_rate() -> None:
    path, rate = Path("x.wav"), 48_000
    time = np.arange(rate // 2) / rate
    tones = np.stack([np.sin(2 * np.pi * f * time) for f in (440, 660)], axis=1)
    sf.write(path, 0.3 * tones, rate, subtype="FLOAT")
    options = ["--residual", "--format", "wav32f"]
    for name, wanted, value in (("a", 44_100, None), ("b", rate, "same"), ("c", 32_000, "32000")):
        assert run(path, "-o", name, *options, *(["--rate", value] if value else [])) == 0
        stems = [sf.read(f"{name}/x/{stem}.wav") for stem in SOURCES]
        assert {given for _, given in stems} == {wanted}
        assert len({len(stem) for stem, _ in stems}) == 1
        assert abs(len(stems[0][0]) - wanted / 2) <= 1
        if value == "same":  # as long, at the same place, and as loud
            total = sum(stem for stem, _ in stems)[2000:-2000]
            np.testing.assert_allclose(total, 0.3 * tones[2000 : 2000 + len(total)], atol=1e-3)


@pytest.mark.parametrize("rate", [48_000, 96_000, 192_000, 22_050])
def test_at_the_songs_rate_stems_are_as_long_as_the_song(rate: int) -> None:
    lengths = range(10_000, 10_007)
    for length in lengths:
        sf.write(f"{length}.wav", np.full((length, 2), 0.1), rate)
    files = [f"{length}.wav" for length in lengths]
    assert run(*files, "-o", "out", "--stems", "bass,karaoke", "--rate", "same") == 0
    for length in lengths:
        assert sf.info(f"out/{length}/bass.wav").frames == length
        assert sf.info(f"out/{length}/karaoke.wav").frames == length


def test_what_is_far_off_keeps_its_length() -> None:
    blocks = list(torch.arange(40.0).view(1, -1).split([1, 0, 30, 9], dim=-1))
    for asked, given in ((38, 38), (43, 43), (20, 40), (400, 40)):
        ended = torch.cat(list(audio.ended_at(blocks, lambda n, asked=asked: asked)), dim=-1)
        assert ended.shape == (1, given)
        torch.testing.assert_close(ended[0, :38][: min(given, 38)], torch.arange(38.0)[:given])
    assert list(audio.ended_at([], lambda n: 5)) == []


def test_a_rate_that_a_format_lacks_is_told_before_the_work(
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = song("x.wav"), song("y.wav")
    assert run(*files, "-o", "out", "--format", "mp3", "--rate", "96000") == 2
    said = capsys.readouterr().err
    assert said.startswith(
        "moises-light: mp3 has no 96000 Hz; choose another format, or one of 8000, "
    )
    assert said.count("\n") == 1
    assert run("x.wav", "-o", "out", "--format", "flac", "--rate", "96096") == 2
    assert "flac has no 96096 Hz; choose another format or rate" in capsys.readouterr().err
    assert not Path("out").exists()
    assert run("x.wav", "-o", "high", "--format", "flac", "--rate", "88200") == 0
    with pytest.raises(SystemExit) as end:
        run(song("x.wav"), "--rate", "fast")
    assert end.value.code == 2
    assert "--rate: 'fast': give 4000 to 384000 Hz, or same" in capsys.readouterr().err


@pytest.mark.parametrize("precision", [None, "float32", "bfloat16"])
def test_the_network_has_the_precision_asked_for(
    monkeypatch: pytest.MonkeyPatch, precision: str | None
) -> None:
    models = []

    def spy(model: MoisesLight, **options: object) -> Separator:
        models.append(model)
        return Separator(model, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(cli, "Separator", spy)
    options = ["--precision", precision] if precision else []
    assert run(song("x.wav"), "-o", "out", *options) == 0
    assert [model.precision for model in models] == [precision or "auto"]


@pytest.mark.parametrize(("name", "extension"), audio.FORMATS.items())
def test_every_format_is_written(name: str, extension: str) -> None:
    assert run(song("x.wav"), "-o", "out", "--format", name, "--stems", "bass, vocals") == 0
    assert tree("out") == [f"x/bass.{extension}", f"x/vocals.{extension}"]


def test_with_residual_the_stems_add_up_to_the_song() -> None:
    path = song("x.flac")
    assert run(path, "-o", "out", "--format", "wav32f", "--residual") == 0
    total = sum(audio.load(f"out/x/{name}.wav") for name in SOURCES)
    assert isinstance(total, Tensor)
    torch.testing.assert_close(total, audio.load(path), rtol=0, atol=1e-6)  # float32 sums


@pytest.mark.parametrize("more", [(), ("--residual",)])
def test_karaoke_and_drumless_are_the_song_less_a_stem(more: tuple[str, ...]) -> None:
    path = song("x.flac", seconds=1.7)
    for stems, folder in (("karaoke,vocals", "some"), ("drumless, drums", "others")):
        assert run(path, "-o", folder, "--format", "wav32f", "--stems", stems, *more) == 0
    assert tree("some") == ["x/karaoke.wav", "x/vocals.wav"]
    for pair in (("some", "karaoke", "vocals"), ("others", "drumless", "drums")):
        folder, *names = pair
        total = sum(audio.load(f"{folder}/x/{name}.wav") for name in names)
        assert isinstance(total, Tensor)
        torch.testing.assert_close(total, audio.load(path), rtol=0, atol=1e-6)


def test_a_mix_needs_the_stem_that_it_leaves_out() -> None:
    assert cli.choose_stems("drumless,bass", ["bass", "drums"]) == ["bass", "drumless"]
    with pytest.raises(ValueError, match="gives bass, drums, drumless; name some"):
        cli.choose_stems("karaoke", ["bass", "drums"])


def test_a_source_of_a_mixs_name_is_the_source() -> None:
    class Model:
        sources, sample_rate = ("vocals", "karaoke"), RATE

        def __call__(self, mixture: Tensor) -> Tensor:
            return torch.stack([0.5 * mixture, 0.125 * mixture], dim=1)

    path = song("x.wav")
    stems = cli.choose_stems("karaoke,vocals", Model.sources)
    assert stems == ["vocals", "karaoke"]
    job = cli.Job(path, Path("out"))
    cli.separate_file(Separator(Model(), segment=0.2), 2, job, stems, "wav32f")
    for stem, gain in (("vocals", 0.5), ("karaoke", 0.125)):
        torch.testing.assert_close(audio.load(f"out/{stem}.wav"), gain * audio.load(path))


def test_songs_of_one_name_get_folders_of_their_own() -> None:
    dots = song("d/dots.wav").rename("d/...wav")
    files = song("a/song.wav"), song("b/Song.flac"), song("c/song (2).wav"), dots
    assert run(*files, files[0], "-o", "out", "--stems", "vocals") == 0
    assert tree("out") == [
        "Song (2)/vocals.wav",
        "song (2) (2)/vocals.wav",
        "song/vocals.wav",
        "track/vocals.wav",
    ]


def test_a_bad_file_costs_one_line_and_the_others_go_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("bad.mp3").write_text("no music")
    Path("folder").mkdir()
    good = song("good.wav")
    assert run("bad.mp3", "absent.wav", "folder", good, "-o", "out", "--stems", "drums") == 1
    assert tree("out") == ["good/drums.wav"]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    for line, name in zip(lines, ("bad.mp3", "absent.wav", "folder", "all: "), strict=True):
        assert name in line
    assert lines[3].endswith("times real time; 3 failed")


def test_a_batch_that_was_there_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    files = song("a/01.wav"), song("a/02.wav"), song("a/03.wav")
    assert run(*files[:2], "-o", "out", "--stems", "vocals") == 0
    capsys.readouterr()
    assert run(*files, "-o", "out", "--stems", "vocals") == 0
    assert capsys.readouterr().err.splitlines()[-1].endswith("times real time; 2 skipped")
    assert run(*files, "-o", "out", "--stems", "vocals") == 0
    assert capsys.readouterr().err.splitlines()[-1] == "all: 3 skipped"


def test_a_file_in_the_way_of_the_folder_is_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    files = song("a.wav"), song("b.wav")
    Path("notes.txt").write_text("")
    for output in ("notes.txt", "notes.txt/stems"):
        assert run(*files, "-o", output) == 2
        said = capsys.readouterr().err.splitlines()
        assert said == [f"moises-light: --output {output}: notes.txt is a file; name a folder"]


def test_the_work_goes_on_where_nobody_reads(tiny: Path) -> None:
    files = [str(song(f"{name}.wav")) for name in "ab"]
    command = [sys.executable, "-m", "moises_light", "separate", *files, "-o", "out"]
    command += ["--preset", str(tiny), "--device", "cpu", "--stems", "bass"]
    end, beginning = os.pipe()
    os.close(end)
    with subprocess.Popen(command, stdout=beginning, stderr=subprocess.PIPE, text=True) as process:
        os.close(beginning)
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == 0, said
    assert tree("out") == ["a/bass.wav", "b/bass.wav"]


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
def test_a_closed_stderr_costs_nothing_and_says_nothing_elsewhere(tiny: Path) -> None:
    files = [str(song("a.wav")), "absent.wav"]
    command = [sys.executable, "-m", "moises_light", "separate", *files, "-o", "out"]
    command += ["--preset", str(tiny), "--device", "cpu", "--stems", "bass"]
    shell = ["sh", "-c", '"$@" 2>&-', "sh", *command]
    done = subprocess.run(shell, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert re.fullmatch(r"a\.wav -> .*\n", done.stdout)
    assert tree("out") == ["a/bass.wav"]


def test_the_bar_takes_the_shortest_song(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", terminal)
    song("blip.wav", seconds=0.3)
    assert run("blip.wav") == 0
    assert "blip" in terminal.getvalue()


def test_a_song_in_the_way_of_its_own_folder_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    path = song("x.wav").rename("noext")
    assert run(path, "-o", ".") == 1
    assert capsys.readouterr().err == (
        "noext: noext, where its stems would go, is a file; choose another --output\n"
    )


def test_what_is_there_is_kept_unless_forced(capsys: pytest.CaptureFixture[str]) -> None:
    path = song("x.wav")
    assert run(path, "-o", "out", "--stems", "vocals") == 0
    stem = Path("out/x/vocals.wav")
    stem.write_bytes(b"mine")
    capsys.readouterr()
    assert run(path, "-o", "out") == 0
    assert capsys.readouterr().err == (
        f"x.wav: skipped, {stem} is there already, from this song or one of the same name; "
        f"--force replaces it\n"
    )
    assert tree("out") == ["x/vocals.wav"]
    assert stem.read_bytes() == b"mine"
    assert run(path, "-o", "out", "--force") == 0
    assert tree("out") == [f"x/{name}.wav" for name in sorted(SOURCES)]
    assert sf.info(stem).frames == sf.info(path).frames


@pytest.mark.parametrize("own", ["vocals", "drums"])
def test_no_stem_takes_the_place_of_the_song(capsys: pytest.CaptureFixture[str], own: str) -> None:
    path = song(f"{own}/{own}.wav")
    Path(own, "vocals.wav").touch()  # and a stem that was there before
    before = path.read_bytes()
    assert run(path, "-o", ".", "--force") == 1
    assert "a stem would take its place; choose another --output" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert run(path, "-o", ".", "--force", "--stems", "bass") == 0
    assert tree(own) == sorted({f"{own}.wav", "vocals.wav", "bass.wav"})


def test_no_stem_takes_the_place_of_another_song(capsys: pytest.CaptureFixture[str]) -> None:
    path, other = song("song.wav"), song("out/song/vocals.wav")
    before = other.read_bytes()
    assert run(path, other, "-o", "out", "--force", "--stems", "vocals") == 1
    said = capsys.readouterr().err.splitlines()[0]
    assert said == f"song.wav: a stem would take the place of {other}; choose another --output"
    assert other.read_bytes() == before
    assert tree("out") == ["song/vocals.wav", "vocals/vocals.wav"]


def test_a_song_that_is_named_two_ways_is_separated_once() -> None:
    path = song("a/song.wav")
    Path("b").mkdir()
    assert run(path, "b/../a/song.wav", path.absolute(), "-o", "out", "--stems", "vocals") == 0
    assert tree("out") == ["song/vocals.wav"]


def test_a_batch_goes_on_when_its_terminal_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    for name in ("a", "b"):
        song(f"{name}.wav")
    Path("bad.wav").write_bytes(b"no audio")
    monkeypatch.setattr(sys, "stdout", Gone())
    monkeypatch.setattr(sys, "stderr", Gone())
    assert run("a.wav", "bad.wav", "b.wav", "-o", "out") == 1
    assert sorted(path.name for path in Path("out").iterdir()) == ["a", "b"]


def test_stems_that_would_clip_are_turned_down_and_it_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = song("loud.wav", level=1.0)
    stem = song("loud.wav", level=1.0)
    sf.write(stem, sf.read(path)[0] * 30, RATE, subtype="FLOAT")
    assert run(stem, "-o", "out", "--residual") == 0
    assert "all of them were turned down to 0." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--stems", "guitar"], "--stems 'guitar': this network gives vocals, drums, bass, other"),
        (["--stems", ","], "this network gives vocals, drums, bass, other"),
        (["--overlap", "1"], "choose a share of the segment from 0 to 0.9"),
        (["--batch-size", "0"], "batch_size=0; choose a whole number >= 1"),
        (["--preset", "tiny"], "'tiny' is neither a preset (paper_large, "),
        (["--preset", "paper_large", "--checkpoints", "none"], "paper_large has no weights"),
        (["--preset", "absent.safetensors"], "there is no file absent.safetensors"),
        pytest.param(
            ["--device", "cuda"],
            "device='cuda' is not there on this machine; choose cpu",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_exit_code_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["separate", str(song("x.wav")), "--preset", "tiny.safetensors"]
    assert cli.main([*common, *arguments]) == 2
    printed = capsys.readouterr()
    assert words in printed.err
    assert printed.err.startswith("moises-light: ")
    assert printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.parametrize(
    "arguments", [[], ["separate"], ["sing"], ["separate", "x.wav", "--format", "doc"]]
)
def test_a_wrong_command_line_ends_with_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    assert "usage: moises-light" in capsys.readouterr().err


def test_defaults_are_those_of_the_library() -> None:
    args = cli.make_parser().parse_args(["separate", "x.wav"])
    wanted = inspect.signature(Separator).parameters
    for name in ("segment", "overlap", "shifts", "batch_size"):
        assert getattr(args, name) == wanted[name].default
    assert args.preset in configs


def test_names_that_no_terminal_can_show_are_escaped() -> None:
    assert cli.printable("a\nb\udcff.wav") == r"a\nb\udcff.wav"
    assert cli.printable("a\u202eb\u2028c\x9b.wav") == r"a\u202eb\u2028c\x9b.wav"
    for name in ("grün.wav", "日本\u3000曲.mp3", "café\u00a0live.mp3", "👩\u200d🎤.flac"):
        assert cli.printable(name) == name


def test_what_is_said_of_a_name_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    Path("\x1b[31mbad.mp3").write_text("no music")
    assert run("\x1b[31mbad.mp3") == 1
    said = capsys.readouterr().err
    assert said.startswith(r"\x1b[31mbad.mp3 holds no audio")
    assert "\x1b" not in said


def test_an_error_that_does_not_name_the_song_gets_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(self: Separator, mixture: object) -> Iterator[Tensor]:
        raise RuntimeError("a fault of the network")

    monkeypatch.setattr(Separator, "blocks", fail)
    path = song("a.wav").rename("a")  # a name that many sentences hold
    assert run(path) == 1
    assert capsys.readouterr().err == "a: a fault of the network\n"


@pytest.mark.skipif(sys.platform != "linux", reason="needs names that are no UTF-8")
@pytest.mark.parametrize("format", ["wav16", "flac", "mp3"])
def test_a_name_that_is_no_utf8_is_read_and_written(format: str) -> None:
    path = Path(song("x.wav")).rename(Path(os.fsdecode(b"caf\xe9.wav")))
    assert run(path, "-o", "out", "--stems", "vocals", "--format", format) == 0
    assert tree("out") == [os.fsdecode(b"caf\xe9/vocals.") + audio.FORMATS[format]]


def test_a_name_that_the_output_cannot_encode_costs_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="cp1252", errors="strict"))
    assert run(song("日本.wav"), song("b.wav"), "-o", "out", "--stems", "vocals") == 0
    sys.stdout.flush()
    assert raw.getvalue().startswith(rb"\u65e5\u672c.wav -> ")
    assert tree("out") == ["b/vocals.wav", "日本/vocals.wav"]


@pytest.mark.skipif(os.name != "posix", reason="needs SIGHUP")
def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` does
    try:
        with terminal.end_as_ctrl_c():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)  # it is being cleaned up
    finally:
        signal.signal(signal.SIGHUP, before)


def test_it_runs_in_any_thread_and_leaves_the_signals_as_they_were() -> None:
    before = signal.getsignal(signal.SIGTERM)
    codes: list[int] = []
    path = song("x.wav")
    thread = threading.Thread(target=lambda: codes.append(run(path, "-o", "out")))
    thread.start()
    thread.join()
    assert run(path, "-o", "again") == 0
    assert codes == [0]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_running_out_of_memory_is_a_sentence(
    device: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def too_much(self: Separator, mixture: object) -> Iterator[Tensor]:
        if device == "cpu":
            torch.empty(2**60, dtype=torch.uint8)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\n20 GiB")

    monkeypatch.setattr(Separator, "blocks", too_much)
    assert run(song("x.wav"), "-o", "out") == 1
    assert capsys.readouterr().err.startswith("x.wav: not enough memory; try --batch-size 1")
    assert not Path("out").exists()


def test_running_out_of_memory_elsewhere_is_a_sentence_and_a_mistake_of_ours_is_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(error: Exception) -> Callable[[], int]:
        def command() -> int:
            raise error

        return command

    short = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
    for error in (torch.OutOfMemoryError("CUDA"), RuntimeError(short), MemoryError()):
        assert terminal.exit_code(fail(error)) == 2
        told = "error: not enough memory; close other programs, or ask for less at once\n"
        assert capsys.readouterr().err == told
    with pytest.raises(RuntimeError, match="a mistake"):
        terminal.exit_code(fail(RuntimeError("a mistake")))


def test_a_song_is_never_held_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has been decoded is at most a few segments ahead of what has been written."""
    decoded = written = ahead = 0
    stream, write = audio.stream, audio.StemWriter.write

    def counted(*args: object, **kwargs: object) -> Iterator[Tensor]:
        nonlocal decoded
        for block in stream(*args, **kwargs):  # type: ignore[arg-type]
            decoded += block.shape[-1]
            yield block

    def watched(self: audio.StemWriter, block: Tensor) -> None:
        nonlocal written, ahead
        ahead = max(ahead, decoded - written)
        written += block.shape[-1]
        write(self, block)

    monkeypatch.setattr(audio, "stream", counted)
    monkeypatch.setattr(audio.StemWriter, "write", watched)
    assert run(song("long.wav", seconds=5), "-o", "out", "--stems", "vocals") == 0
    assert written == decoded == 5 * RATE
    assert ahead <= audio.BLOCK + 2 * round(0.2 * RATE)


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize("sent", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("again", [False, True])
def test_told_to_stop_ends_with_130_and_leaves_no_half_files(
    tiny: Path, sent: str, again: bool
) -> None:
    song("long.wav", seconds=60)
    slow = ["--segment", "0.2", "--overlap", "0.9", "--shifts", "200"]
    command = [sys.executable, "-m", "moises_light", "separate", "long.wav", "-o", "out"]
    process = subprocess.Popen(
        [*command, "--preset", str(tiny), *slow],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background job ignores SIGINT, `nohup` SIGHUP, and so would their children
        preexec_fn=lambda: signal.signal(getattr(signal, sent), signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not list(Path().glob("out/long/.stems-*")):
        assert process.poll() is None, "it ended before it was stopped"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(getattr(signal, sent))
    while again and process.poll() is None:  # a key that is held
        time.sleep(0.03)
        process.send_signal(getattr(signal, sent))
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "stopped\n")
    assert not Path("out/long").exists()


# --------------------------------------------------------------------------- presets


def test_presets_shows_what_is_computed_and_what_cards_say(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    backed = {"vocals": 5}
    card = {"sdr": {"validation": {"vocals": 3.456, "drums": 2, "note": "x"}, "backed": backed}}
    found = {
        "paper_small": weights.Info(Path("p"), configs["paper_small"], card),
        "paper_large": weights.Info(Path("p"), configs["paper_large"], {"sdr": "soon"}),
        "fullband_small": weights.Info(None, configs["fullband_small"], {}),
    }
    monkeypatch.setattr(weights, "available", lambda folder: found)
    assert cli.main(["presets"]) == 0
    head, *rows = (re.split("  +", line) for line in capsys.readouterr().out.splitlines())
    assert head[-2:] == ["SDR in dB, backed", "SDR in dB, validation"]
    assert [row[0] for row in rows] == list(configs)
    assert rows[0] == ["paper_large", "4,660,592", "0-14.7", "yes", "-", "-"]
    small = ["paper_small", "2,520,592", "0-14.7", "yes"]
    assert rows[1] == [*small, "vocals 5.00", "vocals 3.46, drums 2.00"]
    assert rows[2] == ["fullband_large", "4,948,612", "0-22.05", "no", "-", "-"]
    assert rows[3] == ["fullband_small", "2,824,244", "0-22.05", "on the Hub", "-", "-"]


@pytest.mark.parametrize("at_once", [True, False])
def test_a_table_that_nobody_reads_is_no_error(at_once: bool) -> None:
    """Printed at once, or held back until the end as Python does where there is no terminal."""
    command = [sys.executable, "-m", "moises_light", "presets"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1" if at_once else ""}
    end, beginning = os.pipe()
    os.close(end)
    done = subprocess.run(
        command, env=environment, stdout=beginning, stderr=subprocess.PIPE, text=True
    )
    os.close(beginning)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_table_that_a_full_disk_takes_is_an_error() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "moises_light", "presets"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 2
    assert "could not be written" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_home_that_is_not_there_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["presets", "--checkpoints", "~nobody9/x"]) == 2
    said = capsys.readouterr().err.replace(os.sep, "/")
    assert said == ("moises-light: ~nobody9/x: there is no such home folder; give the whole path\n")


# --------------------------------------------------------------------------- the rest of the house


def test_training_commands_are_forwarded(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    training = types.ModuleType("moises_light.training.cli")
    for name in cli.FORWARDED:
        setattr(
            training,
            f"add_{name}_arguments",
            lambda parser, name=name: parser.add_argument(f"--of-{name}", type=int),
        )
        setattr(training, name, lambda args, name=name: ran.append((name, vars(args))))
    monkeypatch.setitem(sys.modules, "moises_light.training.cli", training)
    for name in cli.FORWARDED:
        assert cli.main([name, f"--of-{name}", "3"]) == 0
    assert [(name, args[f"of_{name}"]) for name, args in ran] == [("train", 3), ("evaluate", 3)]


def test_app_launches_the_page_with_the_weights_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradio = pytest.importorskip("gradio")
    from moises_light.ui.handlers import Studio

    launched: dict[str, object] = {}
    started: list[Studio] = []
    monkeypatch.setenv("MOISES_LIGHT_SHARES", str(tmp_path / "shares"))
    monkeypatch.setattr(gradio.Blocks, "launch", lambda demo, **options: launched.update(options))
    monkeypatch.setattr(Studio, "start_chores", lambda studio: started.append(studio))
    card = {"notes": "the folder's own"}
    path = tmp_path / "here" / "paper_small.safetensors"
    weights.save(MoisesLight(**configs["paper_small"]), path, {"card": card})
    assert cli.main(["app", "--port", "7000", "--checkpoints", "here"]) == 0
    assert (launched["server_name"], launched["server_port"]) == ("127.0.0.1", 7000)
    assert launched.keys() >= {"theme", "css"}
    assert started[0].engine.presets()["paper_small"].card == card


def test_a_port_that_is_taken_is_one_sentence(tmp_path: Path) -> None:
    """Also while the presets are being measured: a thread inside torch aborts what ends then."""
    pytest.importorskip("gradio")
    folder = tmp_path / "checkpoints"
    weights.save(MoisesLight(**configs["paper_small"]), folder / "paper_small.safetensors")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "moises_light", "app", "--port", port]
        result = subprocess.run(
            [*command, "--checkpoints", str(folder)],
            env={
                **os.environ,
                "PYTHONPATH": str(Path(__file__).parents[1]),
                "MOISES_LIGHT_MEASURE": "1",
                "MOISES_LIGHT_SHARES": str(tmp_path / "shares"),
            },
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert result.returncode == 2, result.stderr[-2000:]
    assert len(result.stderr.splitlines()) == 1
    assert port in result.stderr


@pytest.mark.parametrize("port", ["-1", "65536", "x"])
def test_a_port_that_is_none_is_refused(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["app", f"--port={port}"])
    assert end.value.code == 2
    assert f"{port!r} is no port; give a whole number from 0 to 65535" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "module", "extra"),
    [("app", "gradio", "app"), ("train", "scipy", "train")],
)
def test_without_its_extra_a_command_says_what_to_install(
    command: str,
    module: str,
    extra: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def absent(name: str) -> Callable[..., None]:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(cli.importlib, "import_module", absent)
    assert cli.main([command]) == 2
    assert capsys.readouterr().err == (
        f"moises-light: the package {module} is not installed; "
        f"it comes with the extra {extra!r}: pip install -e '.[{extra}]' in a clone\n"
    )


def test_without_scipy_train_says_what_to_install() -> None:
    """As a plain installation has it: some of training imports, and the rest does not."""
    program = (
        "import sys\n"
        "for name in ('scipy', 'pyworld', 'fluidsynth'): sys.modules[name] = None\n"
        "from moises_light import cli\n"
        "sys.exit(cli.main(['train', '--folder', 'run', '--steps', '1']))\n"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert told.returncode == 2
    assert told.stderr.startswith("moises-light: the package scipy")
    assert "the extra 'train'" in told.stderr
    assert len(told.stderr.splitlines()) == 1
