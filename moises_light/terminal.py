"""What every command of the package says to the person at a terminal."""

from __future__ import annotations

import argparse
import atexit
import errno
import importlib
import io
import os
import signal
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from types import FrameType
from typing import Any

import torch
from tqdm import tqdm

_lost: list[str] = []  # why lines of what was asked for could not be written
_told: list[int] = []  # the signal that the work was stopped by

_STOPS = [getattr(signal, s) for s in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, s)]

_EXTRAS = {
    "gradio": "app",
    "plotly": "app",
    "scipy": "train",
    "pyworld": "train",
    "pkg_resources": "train",
    "fluidsynth": "train",
    "museval": "evaluate",
    "playwright": "dev",
}
"""Packages, as they are imported, and the extra of ours that brings each."""


def say(text: str) -> None:
    """A line for the person, above the progress bar if there is one.

    What a terminal would obey instead of printing, as names of files may hold, is escaped. If
    nobody reads it any more, the work goes on all the same.
    """
    try:
        tqdm.write(printable(text), file=sys.stderr)
    except OSError:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def tell(text: str) -> None:
    """A line of what was asked for; if nobody reads it any more, the work goes on all the same.

    What a full disk takes is told at the end, by `exit_code`.
    """
    try:
        print(printable(text), flush=True)
    except OSError as error:  # a pipe that was closed, a terminal that is gone, or a full disk
        if error.errno == errno.ENOSPC:
            _lost.append(one_line(error))
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def printable(text: str) -> str:
    r"""Text that stays on its line and does nothing to a terminal, whatever a file was named.

    Spaces of other scripts and joined emoji are as good as any letter.

    >>> print(printable("line\n \x1b[31mred"))
    line\n \x1b[31mred
    """
    return "".join(c if _is_harmless(c) else ascii(c)[1:-1] for c in text)


def _is_harmless(character: str) -> bool:
    joins = character in "\u200c\u200d"  # letters of some scripts, too
    return character.isprintable() or joins or unicodedata.category(character) == "Zs"


def one_line(
    error: BaseException, less: str = "try --batch-size 1, a shorter --segment or --device cpu"
) -> str:
    """What an error says, on one line.

    Args:
        error: that is told.
        less: what to do where memory is short.
    """
    if is_out_of_memory(error):
        return f"not enough memory; {less}"
    return " ".join(str(error).split()) or type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was short, of whichever device."""
    # on the CPU, torch raises a plain RuntimeError
    kinds = torch.OutOfMemoryError | MemoryError
    return isinstance(error, kinds) or "DefaultCPUAllocator" in str(error)


def exit_code(run: Callable[[], int | None], name: str = "error") -> int:
    """Exit code of a command: 2 for bad input, which one line tells, 130 when stopped.

    Args:
        run: the command; None or 0 is success.
        name: what the line begins with.
    """
    for stream in (sys.stdout, sys.stderr):  # names of songs hold letters that not all encodings do
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if sys.stderr is None:  # closed, and tqdm would write to what was asked for instead
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    _lost.clear()
    _told.clear()
    plain = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with _first_only(_STOPS[:1] if plain else []):
        try:
            code = _exit_code(run, name)
        finally:
            _is_read()
        if _lost and not code:
            say(f"{name}: what was to be printed could not be written: {_lost[0]}")
            return 2
        return code


def run_main(module: str) -> int:
    """Exit code of the command that a module's `main` is, as `exit_code` gives it.

    The module is imported here, so that one line tells which of its packages is not installed. It
    calls this above its own imports, where it is run itself.

    Args:
        module: its dotted name.
    """
    return exit_code(lambda: importlib.import_module(module).main())


def _is_read() -> bool:
    """Pass on what was printed; where nobody reads it any more, all that follows goes nowhere."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        # the stream itself stays, and Python would complain of what it still holds
        nowhere = os.open(os.devnull, os.O_WRONLY)
        with suppress(OSError):
            os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        return False
    except (OSError, ValueError):  # Python itself tells of a full disk; a closed stream is empty
        pass
    return True


def _exit_code(run: Callable[[], int | None], name: str) -> int:
    try:
        return run() or 0
    except KeyboardInterrupt:
        for number in _STOPS:  # a key that is held would interrupt Python's own end, too
            atexit.register(signal.signal, number, signal.SIG_IGN)
        with _first_only(_STOPS):
            say("stopped")
        return 130
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not is_out_of_memory(error):
            raise  # a mistake of ours
        if isinstance(error, BrokenPipeError) and not _is_read():
            return 0  # as with `| head`
        say(f"{name}: {one_line(error, 'close other programs, or ask for less at once')}")
        return 2
    except ModuleNotFoundError as error:
        if (error.name or "moises_light").startswith("moises_light"):
            raise  # a mistake of ours
        say(f"{name}: {missing(error)}")
        return 2


def at_least(lowest: int) -> Callable[[str], int]:
    """The type of an argument that is a whole number, for `argparse`.

    >>> at_least(1)("3")
    3
    """

    def whole(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = lowest - 1
        if number < lowest:
            raise argparse.ArgumentTypeError(f"{text!r}: give a whole number >= {lowest}")
        return number

    return whole


def missing(error: ModuleNotFoundError, extra: str | None = None) -> str:
    """What to do where a package is not installed.

    Args:
        error: that names it.
        extra: of ours that brings what is in none by name.

    >>> missing(ModuleNotFoundError(name="PIL"))
    'the package PIL is not installed; it is in none of our extras: install it by itself'
    """
    extra = _EXTRAS.get((error.name or "").split(".")[0], extra)
    if extra is None:
        where = "it is in none of our extras: install it by itself"
    else:
        where = f"it comes with the extra {extra!r}: pip install -e '.[{extra}]' in a clone"
    return f"the package {error.name} is not installed; {where}"


@contextmanager
def end_as_ctrl_c() -> Iterator[None]:
    """Told to end from elsewhere, or by a terminal that is closed, clean up as with Ctrl-C.

    Only the main thread can be told. What the process was started to ignore, as with `nohup`, it
    goes on to ignore.
    """
    _told.clear()
    with _first_only(_STOPS[1:]):
        yield


@contextmanager
def undisturbed() -> Iterator[None]:
    """Told to stop in here, the work stops at the end of it, not half way."""
    told: list[int] = []
    try:
        with _handled(_STOPS, lambda number, frame: told.append(number)):
            yield
    finally:
        if told:
            signal.raise_signal(told[0])


def _stop(number: int, frame: FrameType | None) -> None:
    if not _told:
        _told.append(number)
        raise KeyboardInterrupt


def _first_only(numbers: Iterable[int]) -> AbstractContextManager[None]:
    """The first of these signals is Ctrl-C; those after it do not disturb the cleaning up."""
    return _handled(numbers, _stop)


@contextmanager
def _handled(
    numbers: Iterable[int], handle: Callable[[int, FrameType | None], Any]
) -> Iterator[None]:
    """Signals go to `handle`, but those that are ignored; only the main thread can be told."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) != signal.SIG_IGN}
    try:
        for number in before:
            signal.signal(number, handle)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
