"""The Space's entry, and `make app`: build the page and launch it."""

from __future__ import annotations

from moises_light.ui.demo import build_demo, launch_options

demo = build_demo()

if __name__ == "__main__":
    demo.studio.start_chores()
    demo.launch(**launch_options())
