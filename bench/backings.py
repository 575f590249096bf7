"""Gather the music of `docs/backings.tsv`: `python -m bench.backings UNPACKED OUT`.

UNPACKED holds a folder for each Debian package that the table names, with what `dpkg-deb -x` puts
there. OUT receives the files and the table as `LICENSES.tsv`, as `build --backings` wants them.
Zip files (`.pk3`) in a package are looked into; where the table notes files that add up to one
piece, such as a backing and the guitar that it was published without, their sum is written.
"""

from __future__ import annotations

import argparse
import csv
import io
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from moises_light.terminal import exit_code
from moises_light.training.songs import add

TABLE = Path(__file__).parent.parent / "docs" / "backings.tsv"


def find(package: Path, name: str) -> bytes:
    """The content of the file whose path ends in `name`, in a package's folder or a zip in it.

    Raises:
        ValueError: where there is none.
    """
    for path in sorted(package.rglob("*")):
        if path.is_file() and path.as_posix().endswith(f"/{name}"):
            return path.read_bytes()
    for path in sorted(package.rglob("*.pk3")):
        with zipfile.ZipFile(path) as archive:
            for inside in archive.namelist():
                if f"/{inside}".endswith(f"/{name}"):
                    return archive.read(inside)
    raise ValueError(f"{package} holds no {name}; unpack the package {package.name} there")


def gather(table: Path, unpacked: Path, out: Path) -> int:
    """Write every file of the table below `out`; returns how many."""
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    for row in rows:
        package, name = row["path"].split("/", 1)
        target = out / row["path"]
        target.parent.mkdir(parents=True, exist_ok=True)
        parts = row["note"].removeprefix("sum of ").split(" and ") if row["note"] else [name]
        contents = [find(unpacked / package, part) for part in parts]
        if len(contents) == 1:
            target.write_bytes(contents[0])
        else:
            pieces = [soundfile.read(io.BytesIO(x), dtype="float32")[0].T for x in contents]
            total = add(pieces)
            soundfile.write(target, total.T / max(1.0, np.abs(total).max()), 44100)
    shutil.copy(table, out / "LICENSES.tsv")
    return len(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.backings", description=__doc__)
    parser.add_argument("unpacked", type=Path, help="holds a folder for each package")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--table", type=Path, default=TABLE)
    options = parser.parse_args(arguments)
    print(f"{gather(options.table, options.unpacked, options.out)} files")
    return 0


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
