"""The reference package `moises-light` 0.1.0 beside ours in one process: both have one name."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def load_reference() -> tuple[Callable[..., torch.nn.Module], dict[str, Any]]:
    """`MoisesLight` and `configs` of the reference package, fetched with pip.

    Raises:
        SystemExit: if it cannot be fetched.
    """
    warnings.filterwarnings("ignore", message=".*CPU autocast.*", category=UserWarning)
    ours = {k: sys.modules.pop(k) for k in list(sys.modules) if k.split(".")[0] == "moises_light"}
    folder = Path(tempfile.mkdtemp(prefix="reference-"))
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    if subprocess.run([*pip, "moises-light==0.1.0"]).returncode:
        raise SystemExit("the reference package moises-light==0.1.0 could not be fetched")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder)
    sys.path.insert(0, str(folder))
    try:
        package = importlib.import_module("moises_light")
        return package.MoisesLight, package.configs
    finally:
        sys.path.remove(str(folder))
        for key in [k for k in sys.modules if k.split(".")[0] == "moises_light"]:
            del sys.modules[key]
        sys.modules.update(ours)
