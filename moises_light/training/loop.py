"""The training loop: one page, to be read from top to bottom."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset, Sampler

from moises_light import weights
from moises_light.config import get_config
from moises_light.model import MoisesLight
from moises_light.separation import device_of
from moises_light.training.config import TrainConfig
from moises_light.training.grow import grow
from moises_light.training.history import runs_within
from moises_light.training.losses import Objective

if TYPE_CHECKING:  # it needs scipy, and a command says so where that is missing
    from moises_light.training.mixing import MixtureDataset

CALIBRATION_BATCHES = 24
"""Batches from which the batch norms of the averaged weights are estimated anew."""

STATE = "state.safetensors"
"""Name of the file that a run goes on from."""

_log = logging.getLogger(__name__)


class Indices(Sampler[int]):
    """Numbers of the examples that one process draws, from a step onwards, without end."""

    def __init__(self, config: TrainConfig, step: int, rank: int = 0, world: int = 1):
        self.local = config.batch_size // world
        self.first = step * config.batch_size + rank * self.local
        self.stride = config.batch_size

    def __iter__(self) -> Iterator[int]:
        first = self.first
        while True:
            yield from range(first, first + self.local)
            first += self.stride


def example_numbers(
    config: TrainConfig, step: int, part: int = 0, rank: int = 0, world: int = 1
) -> range:
    """Numbers of the examples in a part of a step's batch, in the order of `Indices`."""
    local = config.batch_size // world // config.accumulate
    first = step * config.batch_size + rank * config.batch_size // world + part * local
    return range(first, first + local)


def widths_of(
    config: TrainConfig, numbers: Iterable[int], sources: Sequence[str], device: str
) -> Tensor | None:
    """`TrainConfig.widths` of these examples, `[B, S + 1]`, where a run has narrow ones."""
    if not config.narrow:
        return None
    return torch.tensor([config.widths(number, sources) for number in numbers], device=device)


class Draws(Dataset[tuple[Tensor, Tensor]]):
    """`MixtureDataset` for a loader; new tracks of a growing corpus are taken up now and then."""

    def __init__(self, dataset: MixtureDataset, rescan_every: int = 400):
        self.dataset = dataset
        self.rescan_every = rescan_every
        self.drawn = 0

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.drawn += 1
        if self.rescan_every and self.drawn % self.rescan_every == 0:
            self.dataset.rescan()
        return self.dataset.draw(index)


def _end_as_ctrl_c(worker: int) -> None:
    """Let a loader's worker that is told to end do so as with Ctrl-C, which PyTorch knows.

    Where all processes of a run are told, one that the signal kills would be an error of the loader
    while the state is saved.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def train(
    config: TrainConfig,
    dataset: MixtureDataset,
    folder: Path,
    *,
    device: str = "cpu",
    workers: int = 1,
    save_minutes: float = 5.0,
    log_steps: int = 10,
    commit: str = "",
    on_log: Callable[[dict[str, Any]], None] = lambda row: None,
    rescan: bool = True,
) -> Path:
    """Train until the budget is spent, from the run's last saved state where there is one.

    The folder receives `config.json`, `log.jsonl`, `state.safetensors` (all that resuming needs)
    and `model.safetensors` (the averaged weights, to be used).

    Args:
        config: of the run; a run that is resumed must have the same but for its budget.
        dataset: where examples are drawn.
        folder: of the run.
        device: `cpu`, `cuda`, `mps`.
        workers: processes that draw examples; 0 draws between the steps.
        save_minutes: between two saved states.
        log_steps: steps that one line of the log sums up.
        commit: of the code, for the card.
        on_log: called with each line of the log.
        rescan: let the corpus grow during the run; then resumed equals uninterrupted no longer.

    Returns:
        `model.safetensors`.

    Raises:
        ValueError: if the config sets no limit, its batch cannot be cut as asked, or the folder
            holds another run; or if the device is not there.
    """
    from moises_light.training.mixing import select

    device_of(device)
    if not (config.minutes or config.steps):
        raise ValueError("nothing says when the run ends; give minutes, steps or both")
    rank, world = _ranks(device)
    if config.batch_size % (config.accumulate * world):
        raise ValueError(
            f"batch_size={config.batch_size} cannot be cut into {world} processes times "
            f"accumulate={config.accumulate}"
        )
    if current_rank() == 0:  # the others may come when it has begun to write
        _check_folder(folder)
    torch.manual_seed(config.seed)
    model, average, optimizer = _begin(config, device, begun=(folder / STATE).is_file())
    step, seconds, earlier = _resume(folder, config, model, average, optimizer)
    teacher = MoisesLight.from_pretrained(config.teacher) if config.teacher else None
    objective = objective_of(model, config, teacher)
    wrapped = DistributedDataParallel(objective) if world > 1 else objective
    loader = DataLoader(
        Draws(dataset, 400 if rescan else 0),
        batch_size=config.batch_size // world // config.accumulate,
        sampler=Indices(config, step, rank, world),
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device == "cuda",
        worker_init_fn=_end_as_ctrl_c,
    )
    batches = iter(loader)
    state = _State(folder, config, model, average, optimizer, device, commit, earlier)
    if rank == 0:
        state.describe()
    counts = torch.tensor(config.counts(model.sources), device=device)
    summary = _Summary(len(model.sources))
    begun, last_save = time.monotonic() - seconds, time.monotonic()
    try:
        while config.progress(step, seconds) < 1:
            # -------------------------------------------------------------------- one step
            lr = config.learning_rate(step, seconds)
            for group in optimizer.param_groups:
                group["lr"] = lr * group["gain"]
            for part in range(config.accumulate):
                waited = time.monotonic()
                mixture, sources = (x.to(device, non_blocking=True) for x in next(batches))
                summary.wait(time.monotonic() - waited)
                numbers = example_numbers(config, step, part, rank, world)
                widths = widths_of(config, numbers, model.sources, device)
                whole = part == config.accumulate - 1 or world == 1
                with nullcontext() if whole else wrapped.no_sync():  # type: ignore[operator]
                    losses = wrapped(mixture, select(sources, model.sources), widths)
                    ((losses * counts).mean() / config.accumulate).backward()
                summary.add(losses.detach())
            norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            if torch.isfinite(norm):
                optimizer.step()
                average.update_parameters(model)
            else:
                summary.skipped += 1
            optimizer.zero_grad()
            step += 1
            seconds = _agreed(time.monotonic() - begun, world)
            # --------------------------------------------------------------------
            if step % log_steps == 0:
                row = summary.row(step, seconds, lr, float(norm), model.sources)
                if rank == 0:
                    _append(folder / "log.jsonl", row)
                    on_log(row)
                summary = _Summary(len(model.sources))
            if rank == 0 and time.monotonic() - last_save > 60 * save_minutes:
                state.save(step, seconds)
                last_save = time.monotonic()
    finally:
        # also when the run is stopped by hand: what was learnt is kept
        if rank == 0:
            state.save(step, seconds)
    if rank == 0:
        state.export(step, seconds, dataset)
    return folder / "model.safetensors"


def _check_folder(folder: Path) -> None:
    """Refuse a folder in which a run would write over what is none of its own.

    A run that was stopped before it saved a state has left its config alone, and begins anew.
    """
    if (folder / STATE).is_file():
        return
    if (folder / "model.safetensors").exists():
        raise ValueError(
            f"{folder} holds a model.safetensors that would be lost, and no {STATE} to go on "
            f"from; choose another folder"
        )
    path = folder / "config.json"
    if path.exists():
        try:
            TrainConfig.from_json(path.read_text(encoding="utf-8"))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{folder} holds a config.json that is of no run; choose another folder"
            ) from error


def saved_config(folder: Path) -> TrainConfig:
    """The config of the run in a folder, as its last saved state has it.

    Raises:
        ValueError: if the folder holds no state.
    """
    return TrainConfig.from_json(_saved_header(folder)["config"])


def _saved_header(folder: Path) -> dict[str, str]:
    if not (folder / STATE).is_file():
        raise ValueError(f"{folder} holds no {STATE}; give the folder of a run that has saved one")
    return weights.read_tensors(folder / STATE)[1]


def export(folder: Path, dataset: MixtureDataset, *, device: str = "cpu") -> Path:
    """Write `model.safetensors` from a run's last saved state, without a step.

    The run may go on meanwhile in another process, which replaces its state as a whole.

    Args:
        folder: of the run.
        dataset: as the run's own; the batch norms are estimated from its examples.
        device: `cpu`, `cuda`, `mps`.

    Returns:
        `model.safetensors`.

    Raises:
        ValueError: if the folder holds no state, or the device is not there.
    """
    device_of(device)
    header = _saved_header(folder)
    config = TrainConfig.from_json(header["config"])
    model, average, optimizer = _begin(config, device, begun=True)
    step, seconds, earlier = _resume(folder, config, model, average, optimizer)
    commit = header.get("commit", "")
    state = _State(folder, config, model, average, optimizer, device, commit, earlier)
    state.export(step, seconds, dataset)
    return folder / "model.safetensors"


def _begin(
    config: TrainConfig, device: str, begun: bool
) -> tuple[MoisesLight, AveragedModel, torch.optim.Optimizer]:
    """The network, its moving average and its optimizer, before the first step."""
    model = _make_model(config, begun).to(device).train()
    if config.frozen_norms:
        for norm in batch_norms(model):
            norm.eval()
    average = AveragedModel(model, multi_avg_fn=_moving_average(config.ema, fresh=not config.start))
    optimizer = torch.optim.AdamW(
        _groups(model, config.weight_decay), lr=config.lr, betas=(0.9, 0.98), fused=True
    )
    return model, average, optimizer


def _make_model(config: TrainConfig, begun: bool) -> MoisesLight:
    """The network at the start of the run; a run that has begun brings its own weights."""
    arguments = dict(get_config(config.preset))
    if config.sources:
        arguments["sources"] = config.sources
    model = MoisesLight(**arguments)
    if config.start and not begun:
        start = MoisesLight.from_pretrained(config.start)
        if start.config == model.config:
            model.load_state_dict(start.state_dict())
        else:
            grow(start, model)
    return model


def objective_of(
    model: MoisesLight, config: TrainConfig, teacher: MoisesLight | None = None
) -> Objective:
    """What a run of that config minimises, on the network's device."""
    objective = Objective(
        *(model, config.loss, config.bf16, config.absent, config.highs, config.highs_of),
        *(teacher, config.teaching),
    )
    return objective.to(next(model.parameters()).device)


def _groups(model: MoisesLight, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; gains and biases do not. Later transformers move in steps of their size.

    `gain` multiplies the learning rate. It must not change what decay and `eps` do beside it, so
    these are divided by it.
    """
    gains = model.depth_gains()
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            groups.setdefault((gains.get(name, 1.0), p.ndim > 1), []).append(p)
    return [
        {
            "params": parameters,
            "gain": gain,
            "weight_decay": weight_decay / gain if is_matrix else 0.0,
            "eps": 1e-8 / gain,
        }
        for (gain, is_matrix), parameters in groups.items()
    ]


def batch_norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    """The batch norms of a network or of a part of it, in its order."""
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


def _moving_average(decay: float, fresh: bool) -> Callable[..., None]:
    """Exponential moving average; one of fresh weights forgets its start quickly."""

    @torch.no_grad()
    def update(averages: Any, values: Any, count: Any) -> None:
        early = (1 + float(count)) / (10 + float(count))
        keep = min(decay, early) if fresh else decay
        torch._foreach_lerp_(averages, values, 1 - keep)

    return update


class _State:
    """Everything that a run is at a moment, saved as safetensors."""

    def __init__(
        self,
        folder: Path,
        config: TrainConfig,
        model: MoisesLight,
        average: AveragedModel,
        optimizer: torch.optim.Optimizer,
        device: str,
        commit: str,
        earlier_runs: list[dict[str, Any]],
    ):
        self.folder, self.config, self.commit, self.device = folder, config, commit, device
        self.model, self.average, self.optimizer = model, average, optimizer
        self.earlier_runs = earlier_runs

    def describe(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.json").write_text(self.config.to_json() + "\n")

    def save(self, step: int, seconds: float) -> None:
        tensors = {f"model.{key}": x for key, x in self.model.state_dict().items()}
        tensors |= {f"average.{key}": x for key, x in self.average.state_dict().items()}
        for key, value in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{key}.{name}": x for name, x in value.items()}
        header = {
            "step": str(step),
            "seconds": str(seconds),
            "config": self.config.to_json(),
            "commit": self.commit,
            "earlier_runs": json.dumps(self.earlier_runs),
        }
        weights.write_tensors(self.folder / STATE, tensors, header)

    def export(self, step: int, seconds: float, dataset: MixtureDataset) -> None:
        """Write the averaged weights, with their batch norms estimated anew."""
        model = averaged_model(self.model, self.average, self.config, dataset, self.device)
        card = {
            "steps": step,
            "examples": step * self.config.batch_size,
            "seconds": round(seconds),
            "device": torch.cuda.get_device_name() if self.device == "cuda" else self.device,
            "seed": self.config.seed,
            "commit": self.commit,
            "run": json.loads(self.config.to_json()),
            "earlier_runs": self.earlier_runs,
        }
        is_preset = not self.config.sources
        metadata = {"preset": self.config.preset, "card": card} if is_preset else {"card": card}
        weights.save(model, self.folder / "model.safetensors", metadata, torch.float16)


def averaged_model(
    model: MoisesLight,
    average: AveragedModel,
    config: TrainConfig,
    dataset: MixtureDataset,
    device: str,
) -> MoisesLight:
    """The averaged weights as a network of its own, in `eval`; `calibrated` unless frozen."""
    result = MoisesLight(**model.config)
    result.load_state_dict(average.module.state_dict())
    if config.frozen_norms:
        return result.eval()
    return calibrated(result, config, dataset, device)


def calibration_examples(config: TrainConfig) -> int:
    """From how many examples `calibrated` estimates batch norms."""
    return CALIBRATION_BATCHES * config.batch_size


def calibrated(
    model: MoisesLight, config: TrainConfig, dataset: MixtureDataset, device: str
) -> MoisesLight:
    """The same network with its batch norms estimated anew from a run's examples, in `eval`.

    For weights that are the mean of others, whose norms belong to none of these, or a part of
    others. The examples are none that the run's steps draw.

    Raises:
        ValueError: if the device is not there.
    """
    from moises_light.training.mixing import draw_batch

    model.to(device_of(device))
    norms = batch_norms(model)
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean of what follows
    model.train()
    objective = objective_of(model, config)
    first = 1 << 40
    with torch.no_grad():
        for batch in range(CALIBRATION_BATCHES):
            numbers = range(
                first + batch * config.batch_size, first + (batch + 1) * config.batch_size
            )
            mixture, sources = draw_batch(dataset, numbers, model.sources)
            widths = widths_of(config, numbers, model.sources, device)
            objective(mixture.to(device), sources.to(device), widths)
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


def _resume(
    folder: Path,
    config: TrainConfig,
    model: MoisesLight,
    average: AveragedModel,
    optimizer: torch.optim.Optimizer,
) -> tuple[int, float, list[dict[str, Any]]]:
    """Load the last saved state into what is given.

    Returns:
        the step, the seconds spent, and the runs whose weights this one started from: looked up
        once, for the file that it started from may be replaced while it goes on.
    """
    path = folder / STATE
    if not path.is_file():
        return 0, 0.0, runs_within(config.start)
    tensors, header = weights.read_tensors(path)
    _same_run(TrainConfig.from_json(header["config"]), config, folder)

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): x for k, x in tensors.items() if k.startswith(prefix)}

    model.load_state_dict(part("model."))
    average.load_state_dict(part("average."))
    saved = optimizer.state_dict()
    for key, x in part("optimizer.").items():
        number, name = key.split(".", 1)
        saved["state"].setdefault(int(number), {})[name] = x
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if any(s["exp_avg"].shape != parameters[n].shape for n, s in saved["state"].items()):
        raise ValueError(
            f"{folder} holds the state of another version; start a new run from its weights with "
            f"--start {folder / 'model.safetensors'}"
        )
    optimizer.load_state_dict(saved)
    _log.info("resumed %s at step %s", folder, header["step"])
    told = header.get("earlier_runs")
    earlier = json.loads(told) if told is not None else runs_within(config.start)
    return int(header["step"]), float(header["seconds"]), earlier


def _same_run(saved: TrainConfig, config: TrainConfig, folder: Path) -> None:
    was, now = (json.loads(c.to_json()) for c in (saved, config))
    changed = [k for k in was if k not in ("minutes", "steps") and was[k] != now[k]]
    if changed:
        told = ", ".join(f"{k}={was[k]!r} (now {now[k]!r})" for k in changed)
        raise ValueError(f"{folder} holds a run with {told}; choose another folder")


class _Summary:
    """What a line of the log sums up."""

    def __init__(self, n_sources: int):
        self.started = time.monotonic()
        self.waited = 0.0
        self.total = torch.zeros(n_sources)
        self.parts = 0
        self.skipped = 0

    def wait(self, seconds: float) -> None:
        self.waited += seconds

    def add(self, losses: Tensor) -> None:
        self.total += losses.mean(0).cpu()
        self.parts += 1

    def row(
        self, step: int, seconds: float, lr: float, norm: float, names: tuple[str, ...]
    ) -> dict[str, Any]:
        elapsed = max(time.monotonic() - self.started, 1e-9)
        mean = (self.total / max(1, self.parts)).tolist()
        return {
            "step": step,
            "minutes": round(seconds / 60, 2),
            "loss": round(sum(mean) / len(mean), 4),
            **{name: round(value, 3) for name, value in zip(names, mean, strict=True)},
            "lr": lr,
            "norm": round(norm, 3),
            "seconds": round(elapsed, 2),
            "waiting": round(self.waited / elapsed, 3),
            "skipped": self.skipped,
        }


def _append(path: Path, row: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def current_rank() -> int:
    """Number of this process among those that `torchrun` started."""
    return int(os.environ.get("RANK", "0"))


def _ranks(device: str) -> tuple[int, int]:
    """Number of this process and how many there are, as `torchrun` tells.

    With CUDA each process of a machine takes a GPU of its own, the clock goes by the CPU.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1 and not distributed.is_initialized():
        if device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        distributed.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo")
    return current_rank(), world


def _agreed(seconds: float, world: int) -> float:
    """The clock of the first process, so that all of them stop at the same step."""
    if world == 1:
        return seconds
    clock = torch.tensor([seconds], dtype=torch.float64)
    distributed.broadcast(clock, 0)
    return float(clock)
