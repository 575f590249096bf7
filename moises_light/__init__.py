"""Moises-Light Studio: a light band-split U-Net that separates music into its sources."""

from moises_light.config import Config, configs
from moises_light.model import MoisesLight

__version__ = "0.1.0"
__all__ = ["Config", "MoisesLight", "configs"]
