"""Learning curves: `python -m bench.curves OUT.html runs/a runs/b`.

A panel for each source and one for their mean, a line for each run, over the audio that it has
heard, so that runs of other lengths and batches compare. Runs that continue one another are drawn
as one: where `start` names a file in the folder of a run before, or a checkpoint of a preset, whose
last run before it is then meant.
"""

from __future__ import annotations

from moises_light.terminal import run_main

if __name__ == "__main__":  # above the imports: what is not installed is one line
    raise SystemExit(run_main("bench.curves"))

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from plotly import graph_objects
from plotly.subplots import make_subplots

from moises_light.config import SOURCES, get_config
from moises_light.training.config import TrainConfig

COLOURS = (
    *("#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#b279a2", "#9d755d"),
    *("#2f2f2f", "#eeca3b", "#ff9da6"),
)


@dataclass(frozen=True)
class Run:
    """A run's log.

    Args:
        name: of its folder.
        config: of the run.
        rows: lines of the log, as `train` writes them.
    """

    name: str
    config: TrainConfig
    rows: list[dict[str, Any]]

    @property
    def hours(self) -> np.ndarray:
        """Hours of audio heard at each row."""
        step = self.config.batch_size * self.config.segment_length
        rate = get_config(self.config.preset).sample_rate
        return np.array([row["step"] for row in self.rows]) * step / rate / 3600


def read_run(folder: Path) -> Run:
    """The log of a run's folder.

    Raises:
        ValueError: if it holds none, or an empty one.
    """
    log = folder / "log.jsonl"
    rows: list[dict[str, Any]] = []
    for line in log.read_text().splitlines() if log.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:  # half a line, of a run that crashed
            continue
        # a run that went on from a saved state did some steps twice
        while rows and rows[-1]["step"] >= row["step"]:
            rows.pop()
        rows.append(row)
    if not rows:
        raise ValueError(f"{folder} holds no log.jsonl with a line; give the folder of a run")
    path = folder / "config.json"
    config = TrainConfig.from_json(path.read_text(), str(path))
    return Run(folder.name, config, rows)


def heard_before(runs: list[Run]) -> list[float]:
    """Hours of audio that each run's weights had heard when it began."""
    spent: dict[str, float] = {}
    begins = []
    for run in runs:
        start = Path(run.config.start)
        begin = spent.get(start.parent.name, spent.get(start.stem, 0.0))
        begins.append(begin)
        spent[run.name] = spent[run.config.preset] = begin + float(run.hours[-1])
    return begins


def smooth(values: np.ndarray, keep: float = 0.85) -> np.ndarray:
    """Exponential moving average that is unbiased from the first value on."""
    weights = keep ** np.arange(len(values))
    return np.convolve(values, weights)[: len(values)] / np.cumsum(weights)


def figure(runs: list[Run]) -> Any:
    """The curves as a Plotly figure."""
    panels = ("loss", *SOURCES)
    titles = ("mean", *SOURCES)
    plot = make_subplots(1, len(panels), subplot_titles=titles, shared_yaxes=True)
    for run, colour, begin in zip(runs, COLOURS * len(runs), heard_before(runs), strict=False):
        for column, key in enumerate(panels, start=1):
            if key not in run.rows[0]:
                continue
            values = np.array([row[key] for row in run.rows])
            raw = {"mode": "markers", "marker": {"size": 3, "opacity": 0.25}, "showlegend": False}
            line = {"mode": "lines", "showlegend": column == 1}
            for y, style in ((values, raw), (smooth(values), line)):
                trace = graph_objects.Scatter(
                    x=begin + run.hours, y=y, name=run.name, legendgroup=run.name, **style
                )
                trace.marker.color = trace.line.color = colour
                plot.add_trace(trace, 1, column)
    plot.update_yaxes(title="training loss in dB (lower is better)", col=1)
    plot.update_xaxes(title="hours of audio heard", col=3)
    plot.update_layout(template="plotly_white", width=1300, height=420, margin={"t": 60})
    return plot


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.curves")
    parser.add_argument("out", type=Path, help="page to write, .html")
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs, oldest first")
    args = parser.parse_args()
    figure([read_run(folder) for folder in args.runs]).write_html(args.out, include_plotlyjs=True)
    print(args.out)
    return 0
