"""The training loop: one page, to be read from top to bottom."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from itertools import count
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
from moises_light.terminal import undisturbed
from moises_light.training.config import TrainConfig
from moises_light.training.corpus import BACKING, append_line
from moises_light.training.grow import grow
from moises_light.training.history import runs_within
from moises_light.training.losses import Objective

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

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
        self.config, self.step, self.rank, self.world = config, step, rank, world

    def __iter__(self) -> Iterator[int]:
        for step in count(self.step):
            for part in range(self.config.accumulate):
                yield from example_numbers(self.config, step, part, self.rank, self.world)


def example_numbers(
    config: TrainConfig, step: int, part: int = 0, rank: int = 0, world: int = 1
) -> range:
    """Numbers of the examples that one process draws for a part of a step's batch."""
    local = config.batch_size // world // config.accumulate
    first = step * config.batch_size + (rank * config.accumulate + part) * local
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
        ValueError: if the config sets no limit, its batch cannot be cut as asked, it asks for
            backings that the corpus lacks, or the folder holds another run, or one that goes on;
            or if the device is not there.
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
    _check_backings(config, dataset, folder)
    if rank == 0:  # the others may come when it has begun to write
        _check_folder(folder)
    with _alone(folder) if rank == 0 else nullcontext():
        torch.manual_seed(config.seed)
        run = _Run(folder, device, config)
        run.commit, run.device_name = commit, _name_of(device)
        model, optimizer = run.model, run.optimizer
        teacher = MoisesLight.from_pretrained(config.teacher) if config.teacher else None
        objective = objective_of(model, config, teacher)
        wrapped = DistributedDataParallel(objective) if world > 1 else objective
        loader = DataLoader(
            Draws(dataset, 400 if rescan else 0),
            batch_size=config.batch_size // world // config.accumulate,
            sampler=Indices(config, run.step, rank, world),
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device == "cuda",
            worker_init_fn=_end_as_ctrl_c,
        )
        batches = iter(loader)
        if rank == 0:
            run.describe()
        counts = torch.tensor(config.counts(model.sources), device=device)
        summary = _Summary(len(model.sources))
        begun, last_save = time.monotonic() - run.seconds, time.monotonic()
        try:
            while config.progress(run.step, run.seconds) < 1:
                # ---------------------------------------------------------------- one step
                lr = config.learning_rate(run.step, run.seconds)
                for group in optimizer.param_groups:
                    group["lr"] = lr * group["gain"]
                for part in range(config.accumulate):
                    waited = time.monotonic()
                    mixture, sources = (x.to(device, non_blocking=True) for x in next(batches))
                    summary.wait(time.monotonic() - waited)
                    numbers = example_numbers(config, run.step, part, rank, world)
                    widths = widths_of(config, numbers, model.sources, device)
                    whole = part == config.accumulate - 1 or world == 1
                    with nullcontext() if whole else wrapped.no_sync():  # type: ignore[operator]
                        losses = wrapped(mixture, select(sources, model.sources), widths)
                        ((losses * counts).mean() / config.accumulate).backward()
                    summary.add(losses.detach())
                norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip)
                with undisturbed():  # a step is saved whole, or not at all
                    if torch.isfinite(norm):
                        optimizer.step()
                        run.average.update_parameters(model)
                    else:
                        summary.skipped += 1
                    optimizer.zero_grad()
                    run.step += 1
                run.seconds = _agreed(time.monotonic() - begun, world)
                # ------------------------------------------------------------------------
                if run.step % log_steps == 0:
                    row = summary.row(run.step, run.seconds, lr, float(norm), model.sources)
                    if rank == 0:
                        append_line(folder / "log.jsonl", json.dumps(row))
                        on_log(row)
                    summary = _Summary(len(model.sources))
                if rank == 0 and time.monotonic() - last_save > 60 * save_minutes:
                    run.save()
                    last_save = time.monotonic()
        finally:
            # also when the run is stopped by hand: what was learnt is kept, if there is any
            if rank == 0 and run.step:
                run.save()
        if rank == 0:
            run.export(dataset)
    return folder / "model.safetensors"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder, whose state they would replace, until this one ends.

    The lock ends with its process. Some disks of a network know none; there nobody is kept out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    held = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"{folder} holds a run that is going on; wait for its end or choose another folder"
            ) from error
        except OSError as error:
            _log.info("%s cannot be locked: %s", folder, error)
        yield
    finally:
        with suppress(OSError):  # closed here, the folder would stay open in the loader's workers
            fcntl.flock(held, fcntl.LOCK_UN)
        os.close(held)


def _check_backings(config: TrainConfig, dataset: MixtureDataset, folder: Path) -> None:
    """Refuse a new run that asks for backings by its own share where the corpus has none.

    Its card would tell of them. The usual share is of those that there are.
    """
    if config.backings in (0, TrainConfig.backings) or (folder / STATE).is_file():
        return
    if not any(BACKING in track.rows for track in dataset.corpus.tracks):
        raise ValueError(
            f"backings={config.backings:g}, and the corpus at {dataset.corpus.folder} has none; "
            f"leave the option out, or add some with python -m moises_light.training.build "
            f"{dataset.corpus.folder.parent} --backings BACKINGS"
        )


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
        except ValueError as error:
            raise ValueError(
                f"{folder} holds a config.json that is of no run; choose another folder"
            ) from error


def saved_config(folder: Path) -> TrainConfig:
    """The config of the run in a folder, as its last saved state has it.

    Raises:
        ValueError: if the folder holds no state.
    """
    return _read_state(folder)[0]


def _read_state(folder: Path) -> tuple[TrainConfig, dict[str, Tensor], dict[str, str]]:
    """Config, tensors and header of a run's last saved state."""
    path = folder / STATE
    if not path.is_file():
        raise ValueError(f"{folder} holds no {STATE}; give the folder of a run that has saved one")
    tensors, header = weights.read_tensors(path)
    if lacking := {"config", "step", "seconds"} - header.keys():
        raise ValueError(
            f"{path} is the state of no run: it has no {', '.join(sorted(lacking))}; "
            f"choose another folder"
        )
    return TrainConfig.from_json(header["config"], str(path)), tensors, header


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
    _Run(folder, device).export(dataset)
    return folder / "model.safetensors"


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
        model,
        config.loss,
        config.bf16,
        absent=config.absent,
        highs=config.highs,
        highs_of=config.highs_of,
        teacher=teacher,
        teaching=config.teaching,
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


class _Run:
    """Everything that a run is at a moment: at its beginning, or as it was saved last.

    Args:
        folder: of the run.
        device: that it is computed on.
        config: of the run; without it that of the saved state, which has to be there.

    Raises:
        ValueError: if the saved state is that of another run, or of another version.
    """

    def __init__(self, folder: Path, device: str, config: TrainConfig | None = None):
        tensors: dict[str, Tensor] = {}
        header: dict[str, str] = {}
        if config is None or (folder / STATE).is_file():
            saved, tensors, header = _read_state(folder)
            config = config or saved
            _same_run(saved, config, folder)
        self.folder, self.config, self.device = folder, config, device
        self.model = _make_model(config, begun=bool(header)).to(device).train()
        if config.frozen_norms:
            for norm in batch_norms(self.model):
                norm.eval()
        moving = _moving_average(config.ema, fresh=not config.start)
        self.average = AveragedModel(self.model, multi_avg_fn=moving)
        self.optimizer = torch.optim.AdamW(
            _groups(self.model, config.weight_decay), lr=config.lr, betas=(0.9, 0.98), fused=True
        )
        self.step, self.seconds = int(header.get("step", 0)), float(header.get("seconds", 0))
        self.commit = header.get("commit", "")
        # older states do not tell
        self.device_name = header.get("device") or _name_of(device)
        # looked up once, for the file that it started from may be replaced while it goes on
        told = header.get("earlier_runs")
        self.earlier_runs = runs_within(config.start) if told is None else json.loads(told)
        if header:
            self._load(tensors)
            _log.info("resumed %s at step %s", folder, self.step)

    def _load(self, tensors: Mapping[str, Tensor]) -> None:
        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): x for k, x in tensors.items() if k.startswith(prefix)}

        self.model.load_state_dict(part("model."))
        self.average.load_state_dict(part("average."))
        saved = self.optimizer.state_dict()
        for key, x in part("optimizer.").items():
            number, name = key.split(".", 1)
            saved["state"].setdefault(int(number), {})[name] = x
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        if any(s["exp_avg"].shape != parameters[n].shape for n, s in saved["state"].items()):
            raise ValueError(
                f"{self.folder} holds the state of another version; start a new run from its "
                f"weights with --start {self.folder / 'model.safetensors'}"
            )
        self.optimizer.load_state_dict(saved)

    def describe(self) -> None:
        (self.folder / "config.json").write_text(self.config.to_json() + "\n")

    def save(self) -> None:
        tensors = {f"model.{key}": x for key, x in self.model.state_dict().items()}
        tensors |= {f"average.{key}": x for key, x in self.average.state_dict().items()}
        for key, value in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{key}.{name}": x for name, x in value.items()}
        header = {
            "step": str(self.step),
            "seconds": str(self.seconds),
            "config": self.config.to_json(),
            "commit": self.commit,
            "device": self.device_name,
            "earlier_runs": json.dumps(self.earlier_runs),
        }
        weights.write_tensors(self.folder / STATE, tensors, header)

    def export(self, dataset: MixtureDataset) -> None:
        """Write the averaged weights, with their batch norms estimated anew."""
        model = averaged_model(self.model, self.average, self.config, dataset, self.device)
        card = {
            "steps": self.step,
            "examples": self.step * self.config.batch_size,
            "seconds": round(self.seconds),
            "device": self.device_name,
            "seed": self.config.seed,
            "commit": self.commit,
            "run": json.loads(self.config.to_json()),
            "earlier_runs": self.earlier_runs,
        }
        is_preset = not self.config.sources
        metadata = {"preset": self.config.preset, "card": card} if is_preset else {"card": card}
        weights.save(model, self.folder / "model.safetensors", metadata, torch.float16)


def _name_of(device: str) -> str:
    """What a card calls the device."""
    return torch.cuda.get_device_name() if device == "cuda" else device


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
