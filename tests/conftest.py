"""Fixtures that several test files share: tiny networks, which run in milliseconds, and a bank."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_material import make_bank

from moises_light.config import Config
from moises_light.model import MoisesLight

TINY = Config(
    n_fft=512, hop_size=128, win_size=512, freq_dim=128, G=4, n_rope=1, heads=2, dim_head=8
)


@pytest.fixture(scope="session")
def tiny_config() -> Config:
    """A network of a few thousand parameters with everything that the presets have."""
    return TINY


@pytest.fixture
def tiny_model(tiny_config: Config) -> MoisesLight:
    """A tiny network with seeded weights, in `eval`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return MoisesLight(**tiny_config).eval()


@pytest.fixture(scope="session")
def bank_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank of sines, to be read alone."""
    return make_bank(tmp_path_factory.mktemp("bank"))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny networks are faster on one thread, by far where the machine has other work too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium for the tests that drive the page; they are skipped without one."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("there is no Chromium on this machine to drive the page with")
    return path
