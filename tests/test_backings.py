"""Gathering music without a singer from unpacked packages."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from bench.backings import TABLE, find, gather, main
from moises_light.training import banks

HEAD = "path\tclass\tsource\tauthor\tlicence\tnote\tseconds\n"


def test_files_are_found_in_folders_and_archives_and_added_up(tmp_path: Path) -> None:
    package = tmp_path / "unpacked" / "game"
    (package / "songs" / "one").mkdir(parents=True)
    for name, level in (("guitar", 0.1), ("song", 0.2)):
        sf.write(package / "songs" / "one" / f"{name}.wav", np.full((4410, 2), level), 44100)
    with zipfile.ZipFile(package / "data.pk3", "w") as archive:
        archive.writestr("music/theme.ogg", b"theme")
    table = tmp_path / "table.tsv"
    table.write_text(
        HEAD + "game/theme.ogg\tbacking\tDebian package game\tSomebody\tCC0-1.0\t\t1\n"
        "game/one.wav\tbacking\tDebian package game\tSomebody\tCC0-1.0\t"
        "sum of one/guitar.wav and one/song.wav\t0.1\n"
    )
    assert gather(table, tmp_path / "unpacked", tmp_path / "out") == 2
    assert (tmp_path / "out" / "game" / "theme.ogg").read_bytes() == b"theme"
    total = sf.read(tmp_path / "out" / "game" / "one.wav")[0]
    np.testing.assert_allclose(total, 0.3, atol=1e-3)
    bank = banks.Bank(tmp_path / "out", held_out=False)
    assert [sample.licence for sample in bank.samples] == ["CC0-1.0", "CC0-1.0"]


def test_a_package_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unpack the package a7xpg-data there"):
        main([str(tmp_path), str(tmp_path / "out")])
    with pytest.raises(ValueError, match=r"holds no theme\.ogg"):
        find(tmp_path, "theme.ogg")


def test_every_row_names_author_and_a_licence_that_may_be_shipped() -> None:
    lines = [line.split("\t") for line in TABLE.read_text(encoding="utf-8").splitlines()[1:]]
    assert len({line[0] for line in lines}) == len(lines) > 100
    for path, kind, source, author, licence, _, seconds in lines:
        assert kind == "backing"
        assert source == f"Debian package {path.split('/')[0]}"
        assert author
        assert licence in (
            *("CC0-1.0", "Public Domain", "MIT", "Zlib", "BSD-2-Clause"),
            *("CC-BY-3.0", "CC-BY-4.0"),
        )
        assert float(seconds) >= 20
    held = [line[0] for line in lines if line[0].startswith(banks.HELD_OUT)]
    assert len(held) == 10
