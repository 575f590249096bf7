"""The house: which way imports point, and that what is written about the package is true."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from packaging.requirements import Requirement

import moises_light
from moises_light import cli, terminal, weights
from moises_light.config import configs
from moises_light.model import MoisesLight

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "moises_light"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def tracked() -> list[Path]:
    """The files of the repository; without git (an unpacked archive) there is nothing to check."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
        ).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is no git repository")
    paths = (ROOT / name for name in listed.split("\0") if name)
    return [path for path in paths if path.is_file()]


# --------------------------------------------------------------------------- layers

OURS = {
    "config": set(),
    "stft": set(),
    "audio": set(),
    "separation": set(),
    "metrics": set(),
    "terminal": set(),
    "model": {"config", "stft"},
    "weights": {"config", "model"},
    "cli": {"", "audio", "config", "model", "separation", "terminal", "weights"},
    "__main__": {"cli"},
    "": {"config", "model"},
}
"""Modules of the library and which of ours each may import; "" is the package itself."""

LIBRARY = {name for name in OURS if name not in ("", "cli", "__main__")}
PARTS = OURS.keys() | {"ui", "training"}

ONLY_IN = {
    "gradio": ("ui", "app"),
    "plotly": ("ui", "app"),
    "huggingface_hub": ("weights",),
    "safetensors": ("weights",),
    "soundfile": ("audio", "training"),
    "av": ("audio", "training"),
    "soxr": ("audio", "training"),
}


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """The dotted names that a file imports, and whether it does so when it is imported itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    later = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) not in later) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has a relative import"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", id(node) not in later


def modules() -> Iterator[tuple[str, Path]]:
    """Name within the package ("" is its `__init__`) and path of every module."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), path


def part_of(name: str) -> str | None:
    """`moises_light.ui.demo.build` lies in the part `ui`, `moises_light.configs` in the package
    itself (""), and what is not ours in `None`."""
    head, *rest = name.split(".")
    if head != "moises_light":
        return None
    return rest[0] if rest and rest[0] in PARTS else ""


def test_imports_point_one_way() -> None:
    wrong = []
    for module, path in modules():
        part = module.split(".")[0]
        for name, at_once in imports(path):
            imported = part_of(name)
            if imported is None or imported == part:
                continue
            if part in OURS:
                # `from_pretrained` and the commands fetch what lies above them when they are called
                late = (part, imported) == ("model", "weights") and not at_once
                allowed = imported in OURS[part] or late
            else:
                allowed = imported in LIBRARY or imported == ""
            if not allowed:
                wrong.append(f"{module or '__init__'} imports {name}")
    assert wrong == []


def test_every_part_of_the_library_has_its_place_in_the_layers() -> None:
    assert {module.split(".")[0] for module, _ in modules()} == PARTS


def test_packages_are_imported_where_they_belong() -> None:
    wrong = []
    for module, path in [*modules(), ("app", ROOT / "app.py")]:
        for name, _ in imports(path):
            places = ONLY_IN.get(name.split(".")[0])
            if places and module.split(".")[0] not in places:
                wrong.append(f"{module} imports {name}")
    assert wrong == []


def test_config_needs_the_standard_library_only() -> None:
    heads = {name.split(".")[0] for name, _ in imports(PACKAGE / "config.py")}
    assert heads <= sys.stdlib_module_names


IMPORT = """
import json, logging, os, sys
import torch
before = torch.get_num_threads(), torch.get_num_interop_threads(), torch.get_rng_state().tolist()
import moises_light
light = sorted(sys.modules)
moises_light.weights.publish, moises_light.separation, moises_light.audio, moises_light.metrics
for name in {names}:
    __import__("moises_light." + name)
after = torch.get_num_threads(), torch.get_num_interop_threads(), torch.get_rng_state().tolist()
print(json.dumps(dict(
    modules=light,
    settings=before == after,
    handlers=len(logging.getLogger().handlers),
    files=os.listdir(),
)))
"""


def test_importing_does_nothing(tmp_path: Path) -> None:
    """No page, Hub or decoder is imported, no threads or seeds are set, no log, no file is made."""
    script = IMPORT.format(names=sorted(LIBRARY | {"cli"}))
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stderr == ""
    seen = json.loads(result.stdout)
    heads = {name.split(".")[0] for name in seen.pop("modules")}
    assert (
        heads & {"gradio", "plotly", "huggingface_hub", "safetensors", "soundfile", "av"} == set()
    )
    assert seen == {"settings": True, "handlers": 0, "files": []}


def test_what_is_no_part_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="'moises_light' has no attribute 'absent'"):
        _ = moises_light.absent


# --------------------------------------------------------------------------- packaging


def requirements(lines: list[str]) -> dict[str, Requirement]:
    found = [Requirement(line) for line in lines]
    return {requirement.name: requirement for requirement in found}


def test_the_hint_for_a_missing_package_names_the_extra_that_brings_it() -> None:
    names = {"fluidsynth": "pyfluidsynth", "pkg_resources": "setuptools"}
    for package, extra in terminal._EXTRAS.items():
        brought = requirements(PYPROJECT["optional-dependencies"][extra])
        assert names.get(package, package) in brought
        error = ModuleNotFoundError(name=f"{package}.part")
        assert f"it comes with the extra {extra!r}: pip" in terminal.missing(error, "other")
    assert "the extra 'app'" in terminal.missing(ModuleNotFoundError(name="PIL"), "app")
    assert "none of our extras" in terminal.missing(ModuleNotFoundError(name="PIL"))


def test_the_space_installs_what_pyproject_says() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    space = requirements([line for line in lines if line and not line.startswith("#")])
    extra = PYPROJECT["optional-dependencies"]["app"]
    package = requirements(PYPROJECT["dependencies"] + extra)
    assert list(space) == list(package)
    for name in space.keys() - {"torch"}:
        assert str(space[name]) == str(package[name])
    # ZeroGPU runs torch 2.8 to 2.11, fewer versions than the package does
    releases = [f"2.{minor}.{patch}" for minor in range(30) for patch in range(3)]
    narrow = set(space["torch"].specifier.filter(releases))
    assert {"2.8.0", "2.11.0"} <= narrow <= set(package["torch"].specifier.filter(releases))
    assert not narrow & {"2.7.1", "2.12.0"}


def test_versions_agree() -> None:
    assert moises_light.__version__ == PYPROJECT["version"]


def test_front_matter_is_what_a_space_needs() -> None:
    _, text, _ = README.split("---\n", 2)
    front = yaml.safe_load(text)
    gradio = requirements(PYPROJECT["optional-dependencies"]["app"])["gradio"]
    assert front["sdk"] == "gradio"
    assert front["sdk_version"] in gradio.specifier
    assert (ROOT / front["app_file"]).is_file()
    assert front["python_version"] in ("3.12.12", "3.10.13")  # what ZeroGPU has
    assert front["license"] == "mit"
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License")
    assert 0 < len(front["short_description"]) <= 60
    colours = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {front["colorFrom"], front["colorTo"]} <= colours
    assert front["title"]
    assert front["emoji"]
    assert front["tags"]


def test_the_right_paper_is_cited() -> None:
    paper = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))[
        "preferred-citation"
    ]
    title = "Moises-Light: Resource-efficient Band-split U-Net for Music Source Separation"
    assert paper["title"] == title
    assert [author["family-names"] for author in paper["authors"]] == [
        "Hung",
        "Pereira",
        "Korzeniowski",
    ]
    assert paper["url"].endswith("2510.06785")
    for words in (title, "2510.06785", "Hung, Yun-Ning and Pereira, Igor and Korzeniowski, Filip"):
        assert words in README


# --------------------------------------------------------------------------- README


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example and weights, as a clone has them; the weights are random here."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "examples").symlink_to(ROOT / "examples", target_is_directory=True)
    model = MoisesLight(**configs["paper_small"])
    path = folder / "checkpoints" / "paper_small.safetensors"
    weights.save(model, path, {"preset": "paper_small"}, torch.float16)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_python_in_the_readme_runs(number: int, clone: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", blocks("python")[number]],
        cwd=clone,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MOISES_LIGHT_CHECKPOINTS": "checkpoints"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr


def test_commands_in_the_readme_exist() -> None:
    lines = [line.partition("#")[0] for block in blocks("sh") for line in block.splitlines()]
    words = [shlex.split(line) for line in lines if line.strip()]
    assert words
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in words:
        if command[0] == "make":
            assert re.search(rf"^{command[1]}:", makefile, flags=re.MULTILINE)
            continue
        assert command[:2] == ["python", "-m"]
        arguments = command[3:]
        if command[2] != "moises_light":
            told = subprocess.run(
                [sys.executable, *command[1:3], "--help"], cwd=ROOT, capture_output=True, text=True
            )
            assert told.returncode == 0, told.stderr
            assert all(flag in told.stdout for flag in arguments if flag.startswith("--"))
            continue
        parser = cli.make_parser(arguments[:1])
        if arguments[-1] == "--help":
            with pytest.raises(SystemExit) as end:
                parser.parse_args(arguments)
            assert end.value.code == 0
        else:
            parser.parse_args(arguments)


@pytest.mark.skipif(os.name != "posix" or not shutil.which("make"), reason="needs make")
def test_make_takes_a_python_that_suits_and_repairs_what_does_not(tmp_path: Path) -> None:
    """Driven with programs that are no Python and write down what they are asked."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").write_text("")
    log = tmp_path / "log"
    answers = {
        "suits": "exit 0",
        "too-new": 'case "$1" in -c) exit 1;; *) exit 0;; esac',
        "no-pip": 'case "$*" in *pip*) exit 1;; *) exit 0;; esac',
    }
    for name, answer in answers.items():
        (tmp_path / name).write_text(
            f'#!/bin/sh\n[ "$1" = -c ] || echo "$2 $*" >> "{log}"\n'
            f'[ "$2" != venv ] || {{ mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; }}\n{answer}\n'
        )
        (tmp_path / name).chmod(0o755)

    def make(python: str) -> tuple[int, str, list[str]]:
        log.write_text("")
        command = ["make", "-s", f"PYTHON=./{python}", ".venv/app.stamp"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        asked = [line for line in log.read_text().splitlines() if not line.endswith("--version")]
        return done.returncode, done.stderr, [line.split()[0] for line in asked]

    code, said, asked = make("too-new")
    assert (code, asked) == (2, [])
    assert said.startswith(
        "./too-new is not Python 3.10 to 3.13; name one that is: make app PYTHON"
    )
    assert make("absent")[0] == 2
    assert not (tmp_path / ".venv").exists()
    assert make("suits") == (0, "", ["venv", "pip"])
    assert make("suits") == (0, "", [])
    (tmp_path / ".venv" / "bin" / "python").unlink()  # as where it led to a Python that is gone
    assert make("suits") == (0, "", ["venv", "pip"])
    (tmp_path / ".venv" / "venv.stamp").unlink()  # as an environment of before has none
    assert make("too-new") == (0, "", [])
    for broken in ("too-new", "no-pip"):
        (tmp_path / ".venv" / "venv.stamp").unlink()
        shutil.copy(tmp_path / broken, tmp_path / ".venv" / "bin" / "python")
        assert make("suits") == (0, "", ["venv", "pip"])


def test_runs_in_the_readme_have_folders_of_their_own() -> None:
    lines = [
        shlex.split(line.partition("#")[0]) for block in blocks("sh") for line in block.splitlines()
    ]
    folders = [
        words[words.index("--folder") + 1]
        for words in lines
        if words[3:4] == ["train"] and "--export" not in words
    ]
    assert len(folders) > 5
    assert len(set(folders)) == len(folders)


def test_the_table_of_presets_is_the_one_that_the_command_prints() -> None:
    head, *rows = cli.preset_rows(weights.available(ROOT / "checkpoints"))
    wanted = "\n".join(
        f"| {' | '.join(row)} |" if row else "|---" * len(head) + "|" for row in [head, [], *rows]
    )
    table = re.search(r"^\| preset .*?(?=\n\n)", README, flags=re.DOTALL | re.MULTILINE)
    assert table is not None
    assert table[0] == wanted


def test_links_in_the_readme_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)", README):
        if "://" not in target:
            assert (ROOT / target).exists(), target


# --------------------------------------------------------------------------- what is not there

UNPICKLERS = {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve"}


def unpickles(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in UNPICKLERS)
        elif isinstance(node, ast.ImportFrom) and node.module in UNPICKLERS:
            yield str(node.module)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if (node.value.id, node.attr) in {("torch", "load"), ("pd", "read_pickle")}:
                yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            yield from ["allow_pickle"] * (ast.unparse(node.value) != "False")


def test_nothing_unpickles() -> None:
    found: list[Any] = []
    for path in tracked():
        if path.suffix == ".py" and "tests" not in path.parts:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found += [(path.name, what) for what in unpickles(tree)]
    assert found == []
    source = "import pickle\nimport torch\ntorch.load('x')\nnp.load('x', allow_pickle=True)"
    assert sorted(unpickles(ast.parse(source))) == ["allow_pickle", "pickle", "torch.load"]


def test_no_file_speaks_of_the_machine_that_it_was_written_on() -> None:
    places = re.compile(r"/(?:work|root|Users|home/\w+)/\w|[A-Z]:\\\\Users")
    found = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.name}: {line}" for line in text.splitlines() if places.search(line)]
    assert found == []


def test_no_file_is_too_large_for_a_clone() -> None:
    assert [path.name for path in tracked() if path.stat().st_size > 50_000_000] == []
