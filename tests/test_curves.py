"""Learning curves from the logs of runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench.curves import figure, heard_before, read_run, smooth
from moises_light.training.config import TrainConfig


def write_run(folder: Path, config: TrainConfig, steps: list[int]) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config.to_json())
    rows = [{"step": step, "loss": -step / 100, "vocals": -step / 200} for step in steps]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_runs_that_continue_one_another_follow_one_another(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", TrainConfig(batch_size=4), [10, 20])
    start = str(tmp_path / "a" / "model.safetensors")
    second = write_run(tmp_path / "b", TrainConfig(batch_size=8, start=start), [10])
    runs = [read_run(first), read_run(second)]
    hour = 63 * 1024 / 44100 / 3600
    np.testing.assert_allclose(runs[0].hours, [40 * hour, 80 * hour])
    assert heard_before(runs) == pytest.approx([0, 80 * hour])
    plot = figure(runs)
    last = plot.data[-1]
    assert last.name == "b"
    assert list(last.x) == pytest.approx([160 * hour])


def test_a_checkpoint_continues_the_last_run_of_its_preset(tmp_path: Path) -> None:
    released = TrainConfig(batch_size=4, start="checkpoints/paper_small.safetensors")
    folders = [
        write_run(tmp_path / "a", TrainConfig(batch_size=4), [10]),
        write_run(tmp_path / "b", TrainConfig(batch_size=4), [20]),
        write_run(tmp_path / "c", released, [10]),
        write_run(tmp_path / "d", released, [10]),
        write_run(tmp_path / "e", TrainConfig(batch_size=4, preset="paper_large"), [10]),
    ]
    hour = 63 * 1024 / 44100 / 3600
    begins = heard_before([read_run(folder) for folder in folders])
    assert begins == pytest.approx([0, 0, 80 * hour, 120 * hour, 0])


def test_steps_that_were_done_twice_count_once(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", TrainConfig(), [10, 20, 30, 20, 30, 40])
    assert [row["step"] for row in read_run(folder).rows] == [10, 20, 30, 40]


def test_half_a_line_of_a_run_that_crashed_is_left_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", TrainConfig(), [10, 20])
    log = folder / "log.jsonl"
    first, second = log.read_text().splitlines()
    log.write_text(f'{first}\n{{"step": 15, "lo\n{{"step"{second}\n{second}\n')
    assert [row["step"] for row in read_run(folder).rows] == [10, 20]


def test_a_config_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", TrainConfig(), [10])
    (folder / "config.json").write_text('{"warp": 9}')
    with pytest.raises(ValueError, match=r"config\.json has options that are unknown here: warp"):
        read_run(folder)


def test_smoothing_keeps_a_level_from_the_first_value_on() -> None:
    np.testing.assert_allclose(smooth(np.full(9, -2.0)), -2.0)
    step = smooth(np.repeat([0.0, 1.0], 40))
    assert step[39] == pytest.approx(0)
    assert 0.1 < step[40] < 0.2
    assert step[-1] > 0.99


def test_a_folder_without_a_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no log\.jsonl"):
        read_run(tmp_path)
    (tmp_path / "log.jsonl").touch()  # as a run has it that was stopped early
    with pytest.raises(ValueError, match=r"holds no log\.jsonl with a line"):
        read_run(tmp_path)
