"""Moises-Light Studio: a light band-split U-Net that separates music into its sources."""

from importlib import import_module
from types import ModuleType

from moises_light.config import Config, configs
from moises_light.model import MoisesLight

__version__ = "0.1.0"
__all__ = ["Config", "MoisesLight", "configs"]


def __getattr__(name: str) -> ModuleType:
    """The parts that need more than torch, when they are asked for."""
    if name in ("audio", "metrics", "separation", "weights"):
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
