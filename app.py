"""The Space's entry, and `make app`: build the page and launch it."""

from __future__ import annotations

from moises_light.ui.demo import build_demo, launch_options
from moises_light.ui.handlers import Studio

studio = Studio()
demo = build_demo(studio=studio)

if __name__ == "__main__":
    studio.start_chores()
    demo.launch(**launch_options())
