"""Every benchmark that needs no corpus, one after another: `python -m bench`."""

from __future__ import annotations

import argparse

from bench import memory, precision, speed, training

if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m bench", description=__doc__).parse_args()
    speed.main([])
    precision.main([])
    training.main([])
    memory.main()
