"""Every benchmark that needs no corpus, one after another: `python -m bench`."""

from __future__ import annotations

from bench import memory, precision, speed, training

if __name__ == "__main__":
    speed.main([])
    precision.main([])
    training.main([])
    memory.main()
