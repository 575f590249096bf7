"""How long a visitor waits, and what the page takes: `python -m bench.page SONG [--stop SECONDS]`.

Starts the page with the weights in `checkpoints/`, drives it in Chromium as a visitor would (drop
the song, Separate, play at once) and prints seconds from the click and the memory of the page's
renderer. Chromium, the network and the sound share this machine's cores.
"""

from __future__ import annotations

from moises_light.terminal import run_main

if __name__ == "__main__":  # above the imports: what is not installed is one line
    raise SystemExit(run_main("bench.page"))

import argparse
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from playwright.sync_api import sync_playwright


@contextmanager
def served() -> Iterator[str]:
    """The page's address, while it is served."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "app.py"],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "GRADIO_SERVER_PORT": str(port)},
        stdout=subprocess.DEVNULL,
    )
    try:
        for _ in range(240):
            try:
                urlopen(f"http://127.0.0.1:{port}/config", timeout=1).close()
                break
            except (URLError, OSError):
                time.sleep(0.25)
        else:
            raise RuntimeError("the page did not come up within a minute; try `make app`")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def renderer_memory() -> int:
    """MiB of the largest renderer of any Chromium on this machine (Linux)."""
    sizes = [0]
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"--type=renderer" in (folder / "cmdline").read_bytes():
                pages = int((folder / "statm").read_text().split()[1])
                sizes.append(pages * os.sysconf("SC_PAGE_SIZE") >> 20)
        except OSError:
            continue
    return max(sizes)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.page")
    parser.add_argument("song", type=Path)
    parser.add_argument("--stop", type=float, default=600, help="seconds after which to give up")
    args = parser.parse_args(arguments)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with served() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"],
        )
        page = browser.new_page(viewport={"width": 1280, "height": 900})

        def wait(condition: str) -> None:
            script = f"(() => {{ const s = window.studio.state(); return {condition}; }})()"
            page.wait_for_function(script, timeout=1000 * args.stop)

        page.goto(address)
        page.wait_for_function("window.studio !== undefined")
        began = time.monotonic()
        page.set_input_files("#song input[type=file]", args.song)
        wait("s.phase === 'ready'")
        print(f"song there after {time.monotonic() - began:.1f} s")
        began = time.monotonic()
        page.click("#go")
        wait("s.ready.a > 0")
        print(f"first stems after {time.monotonic() - began:.1f} s")
        page.click(".ml-play")
        wait("s.playing && s.active === 'a' && s.level > 0.001")
        print(f"stems sound after {time.monotonic() - began:.1f} s", flush=True)
        peak = 0
        while page.evaluate("window.studio.state().phase") != "finished":
            peak = max(peak, renderer_memory())
            if time.monotonic() - began > args.stop:
                ready = page.evaluate("window.studio.state().limit")
                print(f"stopped after {args.stop:.0f} s with {ready:.0f} s of the song separated")
                break
            time.sleep(1)
        else:
            print(f"finished after {time.monotonic() - began:.1f} s")
        print(f"renderer: {max(peak, renderer_memory())} MiB at most")
        browser.close()
    return 0
