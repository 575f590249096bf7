"""Find, verify, load, save and publish weights.

Weights are safetensors files that carry their own config and card in the header, so that a file
describes its network whole and nothing has to be unpickled or guessed:

- `format`: `moises-light-studio/1`
- `config`: JSON of the `Config`, every field of it
- `preset`: the preset's name, or nothing for a network of one's own
- `card`: JSON; what was trained on what, for how long, and how well it does

Where they are looked for:

1. a folder: the one that is given, else `MOISES_LIGHT_CHECKPOINTS`, else `checkpoints`. A relative
   folder is looked for in the current directory and then beside the package.
2. the Hugging Face Hub: the repository `MOISES_LIGHT_REPO`, at a commit and with a SHA-256 from
   `PINS`. `MOISES_LIGHT_REVISION` (a commit of 40 hex digits) and `MOISES_LIGHT_SHA256`
   (`paper_small=<64 hex digits>,...`) go before the table. What has no commit or no SHA-256 is not
   downloaded: nothing unchecked is loaded.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from moises_light.config import Config, configs, get_config
from moises_light.model import MoisesLight

FORMAT = "moises-light-studio/1"
SUFFIX = ".safetensors"

_STORED = (torch.float32, torch.float16, torch.bfloat16)
_LFS = b"version https://git-lfs"
"""How a pointer begins that a clone without Git LFS has in place of a large file."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pin:
    """What a file on the Hub has to be.

    Args:
        revision: the commit, 40 hex digits.
        sha256: of the file, 64 hex digits.
    """

    revision: str
    sha256: str


PINS: Mapping[str, Pin] = MappingProxyType({})
"""Published weights by preset, as `publish` returns them."""


@dataclass(frozen=True)
class Checkpoint:
    """A file of weights, read and checked.

    Args:
        config: the network's.
        state_dict: its tensors; floating point ones are float32.
        metadata: `preset` (text, may be empty) and `card` (a dict), as `save` takes them.
    """

    config: Config
    state_dict: dict[str, Tensor]
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Info:
    """Weights that are there, from the header alone.

    Args:
        path: the file; `None` if it is pinned on the Hub and not here yet.
        config: the network's.
        card: what is known of the weights; empty while `path` is `None`.
    """

    path: Path | None
    config: Config
    card: Mapping[str, Any]


class MissingWeights(ValueError):
    """There are no weights for what was asked."""


NONE_HERE = (
    "No preset has weights here; name the folder that holds them: --checkpoints, the argument "
    "`folder`, or MOISES_LIGHT_CHECKPOINTS"
)


# --------------------------------------------------------------------------- load


def load_pretrained(preset: str | Path, folder: str | Path | None = None) -> MoisesLight:
    """A network with its weights, in `eval`.

    Args:
        preset: the name of a preset, or the path of a `.safetensors` file.
        folder: where to look for presets, see `find`.

    Raises:
        MissingWeights: if there are none for the preset.
        ValueError: if the file is not what it should be.
    """
    by_name = str(preset) in configs
    if not by_name and Path(preset).suffix != SUFFIX:
        raise ValueError(
            f"{str(preset)!r} is neither a preset ({', '.join(configs)}) nor a {SUFFIX} file"
        )
    path = find(str(preset), folder) if by_name else Path(preset)
    checkpoint = load(path)
    if by_name and checkpoint.config != configs[str(preset)]:
        raise ValueError(_another_network(path, str(preset)))
    model = MoisesLight(**checkpoint.config)
    model.load_state_dict(checkpoint.state_dict)
    return model.eval()


def load(path: str | Path) -> Checkpoint:
    """Read a file of weights, strictly.

    Raises:
        ValueError: if the file cannot be read, its config has an unknown, missing or impossible
            field, a tensor is missing, unknown or misshapen, or a value is not finite.
    """
    path = Path(path)
    config, metadata = _read_header(path)
    state_dict, _ = read_tensors(path)
    _check_size(path, config, len(state_dict))
    try:
        expected = _expected(config)
    except (RuntimeError, TypeError, OverflowError) as error:
        raise ValueError(f"{path} describes a network that is too large for torch") from error
    problems = _differences(expected, state_dict)
    problems += [f"{key} is not finite" for key in _not_finite(state_dict)]
    if problems:
        raise ValueError(f"{path} does not fit the network of its config: {'; '.join(problems)}")
    return Checkpoint(config, {key: _as_float32(x) for key, x in state_dict.items()}, metadata)


def from_reference(
    state_dict: Mapping[str, Tensor], config: Config | None = None
) -> dict[str, Tensor]:
    """Turn a state dict of the package `moises-light` 0.1.0 into one of `MoisesLight`.

    The keys agree. Two buffers of the reference, `stft_window` and `freq_pad`, are left out, since
    they follow from the config; they have to be there and to be what the config makes them.

    Args:
        state_dict: of the reference's network.
        config: of the same network. Without it, the state dict has to be one of a preset.

    Raises:
        ValueError: it names every tensor that is missing, unknown or misshapen; without a config
            compared with the preset that is nearest.

    Source: the package `moises-light` 0.1.0.
    """
    if config is None:
        distance = {
            name: len(_differences_of_reference(configs[name], state_dict)) for name in configs
        }
        name = min(distance, key=lambda name: distance[name])
        config = configs[name]
    else:
        name = "its config"
    problems = _differences_of_reference(config, state_dict)
    if problems:
        raise ValueError(
            f"this state dict does not fit the network of {name}: {'; '.join(problems)}"
        )
    kept = _expected(config)
    return {key: _as_float32(x) for key, x in state_dict.items() if key in kept}


# --------------------------------------------------------------------------- save


def save(
    model: MoisesLight,
    path: str | Path,
    metadata: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write the weights of a network; the file is whole or it is not there.

    Args:
        model: the network.
        path: of the file, ending in `.safetensors`.
        metadata: `preset` (text) and `card` (a dict that JSON can hold), both optional.
        dtype: of the stored matrices: float32, float16 or bfloat16. Vectors stay float32: they
            weigh nothing, and variances and rotary frequencies do not bear the loss.

    Raises:
        ValueError: if a weight is not finite (in that dtype), the tensors are not those of the
            model's config, as those of a compiled one, the metadata is not as above, or the file
            cannot be written.
    """
    path = Path(path)
    check_name(path)
    if dtype not in _STORED:
        raise ValueError(f"weights are not stored as {dtype}; choose one of {_STORED}")
    header = _make_header(model.config, metadata or {})
    state_dict = {
        key: x.detach().to("cpu", _stored_dtype(x, dtype)) for key, x in model.state_dict().items()
    }
    bad = _not_finite(state_dict)
    if bad:
        raise ValueError(f"not finite as {dtype}, so not saved: {', '.join(bad)}")
    if problems := _differences(_expected(model.config), state_dict):
        raise ValueError(
            f"{path.name} would not fit the network of its config, so not saved: "
            f"{'; '.join(problems[:3])}"
        )
    write_tensors(path, state_dict, header)


def check_name(path: Path) -> None:
    """Ask a file to be written for its ending, before the work.

    Raises:
        ValueError: if it is not `.safetensors`.
    """
    if path.suffix != SUFFIX:
        raise ValueError(f"{path} does not end in {SUFFIX}; give a name that does")


def _stored_dtype(x: Tensor, dtype: torch.dtype) -> torch.dtype:
    if not x.is_floating_point():
        return x.dtype
    return dtype if x.ndim > 1 else torch.float32


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]
) -> None:
    """Write a safetensors file of any content; it is whole or it is not there.

    Raises:
        ValueError: if it cannot be written, or the header is larger than safetensors reads.
    """
    path = Path(path)
    # the file's own name may be as long as a name can be
    part = path.with_name(f".{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        # safetensors wants tensors that share no memory, each in one piece
        data = to_bytes({key: x.contiguous().clone() for key, x in tensors.items()}, dict(header))
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except (SafetensorError, OSError) as error:
        # without the name of the hidden file, which nobody gave
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path} cannot be written: {reason}") from error


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a file that `write_tensors` wrote.

    Raises:
        ValueError: if it cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise _unreadable(Path(path), error) from error


def _unreadable(path: Path, error: Exception) -> ValueError:
    with suppress(OSError), path.open("rb") as file:
        if file.read(len(_LFS)) == _LFS:
            return ValueError(
                f"{path} is not the file itself but a pointer to it; fetch it with `git lfs pull`"
            )
    return ValueError(f"{path} cannot be read as safetensors: {error}")


# --------------------------------------------------------------------------- find


def folders(folder: str | Path | None = None) -> list[Path]:
    """Where weights are looked for, in that order, whether these folders exist or not.

    Raises:
        ValueError: if the folder begins with `~` and there is no such home.
    """
    path = Path(folder or os.environ.get("MOISES_LIGHT_CHECKPOINTS") or "checkpoints")
    try:
        path = path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: there is no such home folder; give the whole path") from error
    if path.is_absolute():
        return [path]
    places = [Path.cwd() / path, Path(__file__).resolve().parents[1] / path]
    return list(dict.fromkeys(places))


def find(preset: str, folder: str | Path | None = None) -> Path:
    """The file with the weights of a preset, downloaded if need be.

    Args:
        preset: its name.
        folder: where to look first; without it `MOISES_LIGHT_CHECKPOINTS`, else `checkpoints`.

    Raises:
        MissingWeights: if there is no such file; the message says where it was looked for and
            which presets have weights.
        ValueError: if there is no such preset, or what the Hub gave is not what is pinned.
    """
    get_config(preset)
    places = folders(folder)
    for place in places:
        path = place / f"{preset}{SUFFIX}"
        if path.is_file():
            return path
    repo, pin = _repository(), _pin(preset)
    if repo and pin:
        return _download(preset, repo, pin, places[0])
    if repo:
        hub = (
            f"{repo} on the Hub is not asked, since no commit and SHA-256 are pinned: set "
            f"MOISES_LIGHT_REVISION to a commit and MOISES_LIGHT_SHA256 to {preset}=<sha256>"
        )
    else:
        hub = "the Hub is not asked, since MOISES_LIGHT_REPO names no repository"
    have = available(folder)
    raise MissingWeights(
        f"{preset} has no weights: there is no {preset}{SUFFIX} in "
        f"{' or '.join(map(str, places))}, and {hub}. "
        + (f"Presets with weights: {', '.join(have)}" if have else NONE_HERE)
    )


def available(folder: str | Path | None = None) -> dict[str, Info]:
    """Presets that have weights. Reads headers only and downloads nothing.

    A file that cannot be read, or describes another network, is left out, with a warning in the
    log.

    Args:
        folder: where to look, see `find`.
    """
    found = {}
    repo = _repository()
    for preset, config in configs.items():
        paths = [place / f"{preset}{SUFFIX}" for place in folders(folder)]
        path = next((path for path in paths if path.is_file()), None)
        pin = _pin(preset) if repo else None
        if path is None and repo and pin:
            path = _cached(preset, repo, pin)
            if path is None:
                found[preset] = Info(None, config, {})
        if path is None:
            continue
        try:
            header_config, metadata = _read_header(path)
        except ValueError as error:
            _log.warning("left out: %s", error)
            continue
        if header_config != config:
            _log.warning("left out: %s", _another_network(path, preset))
            continue
        found[preset] = Info(path, header_config, metadata["card"])
    return found


def _another_network(path: Path, preset: str) -> str:
    return f"{path} describes another network than {preset}; load it by its path"


# --------------------------------------------------------------------------- the Hub


def publish(
    repo: str,
    presets: Iterable[str] | None = None,
    folder: str | Path | None = None,
    token: str | None = None,
) -> dict[str, Pin]:
    """Put weights and the cards beside them on the Hub, in one commit.

    Args:
        repo: `owner/name`; made if it is not there.
        presets: which ones; without it, all that `folder` holds.
        folder: where they are, see `find`.
        token: that may write there; without it the one that `hf auth login` stored.

    Returns:
        What pins each of them, for `PINS`.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    here = {name: info.path for name, info in available(folder).items() if info.path}
    paths = {name: here.get(name) for name in (here if presets is None else presets)}
    missing = [name for name, path in paths.items() if path is None]
    if missing or not paths:
        raise MissingWeights(
            f"nothing is published: no weights for {', '.join(missing) or 'any preset'} in "
            f"{' or '.join(map(str, folders(folder)))}"
        )
    files = [path for path in paths.values() if path]
    for path in files:
        load(path)
    cards = [card for path in files if (card := path.with_suffix(".md")).is_file()]
    api = HfApi(token=token)
    api.create_repo(repo, exist_ok=True)
    commit = api.create_commit(
        repo,
        [
            CommitOperationAdd(path_in_repo=path.name, path_or_fileobj=path)
            for path in files + cards
        ],
        commit_message=f"Weights of {', '.join(paths)}",
    )
    return {path.stem: Pin(commit.oid, _sha256(path)) for path in files}


def _repository() -> str:
    return os.environ.get("MOISES_LIGHT_REPO", "").strip()


def _pin(preset: str) -> Pin | None:
    """Commit and SHA-256 of a preset: the environment goes before the table."""
    table = PINS.get(preset)
    revision = os.environ.get("MOISES_LIGHT_REVISION", "").strip()
    hashes = _hashes(os.environ.get("MOISES_LIGHT_SHA256", ""))
    if revision and not re.fullmatch("[0-9a-f]{40}", revision):
        raise ValueError(
            f"MOISES_LIGHT_REVISION is {revision!r}; give a commit, 40 hex digits, "
            f"since a branch or tag can move"
        )
    revision = revision or (table.revision if table else "")
    sha256 = hashes.get(preset) or (table.sha256 if table else "")
    return Pin(revision, sha256) if revision and sha256 else None


def _hashes(text: str) -> dict[str, str]:
    """`paper_small=<64 hex digits>,...` as a dict."""
    pairs = {}
    for item in filter(None, re.split(r"[,\s]+", text)):
        preset, _, sha256 = item.partition("=")
        if preset not in configs or not re.fullmatch("[0-9a-f]{64}", sha256):
            raise ValueError(
                f"MOISES_LIGHT_SHA256 holds {item!r}; give <preset>=<64 hex digits> "
                f"with a preset among {', '.join(configs)}"
            )
        pairs[preset] = sha256
    return pairs


def _download(preset: str, repo: str, pin: Pin, place: Path) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    name = f"{preset}{SUFFIX}"
    where = f"{repo} on the Hub at {pin.revision}"
    try:
        # token=False: the weights are public, and a visitor's token is none of their business
        path = Path(hf_hub_download(repo, name, revision=pin.revision, token=False))
    except LocalEntryNotFoundError as error:
        raise MissingWeights(
            f"{name} is not on this machine and {where} cannot be reached; "
            f"connect, or put the file in {place}"
        ) from error
    except EntryNotFoundError as error:
        raise MissingWeights(f"{where} has no {name}") from error
    # the client passes on what its HTTP library raises, and that library changes with its versions
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise MissingWeights(
            f"{name} could not be downloaded from {where}: "
            f"{reason[0] if reason else type(error).__name__}"
        ) from error
    found = _sha256(path)
    if found != pin.sha256:
        raise ValueError(
            f"{name} from {where} has SHA-256 {found} instead of {pin.sha256} and is not loaded; "
            f"delete {path} and try again, and if that does not help, do not trust the repository"
        )
    return path


def _cached(preset: str, repo: str, pin: Pin) -> Path | None:
    """The file of an earlier download, if there is one."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(repo, f"{preset}{SUFFIX}", revision=pin.revision)
    return Path(path) if isinstance(path, str) else None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# --------------------------------------------------------------------------- header and tensors


def _make_header(config: Config, metadata: Mapping[str, Any]) -> dict[str, str]:
    unknown = sorted(set(metadata) - {"preset", "card"})
    if unknown:
        raise ValueError(f"metadata has {', '.join(unknown)}; it may have preset and card")
    preset, card = metadata.get("preset", ""), metadata.get("card", {})
    if not isinstance(preset, str):
        raise ValueError(f"preset is {preset!r}; give the name of one, or leave it out")
    if preset and get_config(preset) != config:
        raise ValueError(f"the network is not {preset}; leave the preset out")
    if not isinstance(card, Mapping):
        raise ValueError(f"card is {type(card).__name__}; give a dict")
    try:
        text = json.dumps(dict(card), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"card does not fit into JSON: {error}") from error
    return {"format": FORMAT, "preset": preset, "config": json.dumps(dict(config)), "card": text}


def _read_header(path: Path) -> tuple[Config, dict[str, Any]]:
    if not path.is_file():
        raise MissingWeights(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error
    if header.get("format") != FORMAT:
        raise ValueError(
            f"{path} has format {header.get('format')!r} instead of {FORMAT!r}; it was not written "
            f"by this version of moises_light"
        )
    preset = header.get("preset", "")
    config = _read_config(path, _read_json(path, header, "config"))
    if preset and configs.get(preset) != config:
        raise ValueError(f"{path} says it is {preset!r}, and its config is another")
    return config, {"preset": preset, "card": _read_json(path, header, "card")}


def _read_json(path: Path, header: Mapping[str, str], key: str) -> dict[str, Any]:
    try:
        value = json.loads(header[key])
    except (KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} has no {key} in its header that is JSON") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} has a {key} in its header that is no JSON object")
    return value


def _read_config(path: Path, values: Mapping[str, Any]) -> Config:
    known = set(Config())
    problems = [f"unknown {key}" for key in sorted(values.keys() - known)]
    problems += [f"missing {key}" for key in sorted(known - values.keys())]
    if problems:
        raise ValueError(f"{path} has a config of another version: {', '.join(problems)}")
    try:
        return Config(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} has an impossible config: {error}") from error


def _check_size(path: Path, config: Config, n_tensors: int) -> None:
    """Refuse a config of millions of layers before a network is made of it."""
    c = config
    n_layers = c.n_enc * c.n_split_enc + c.n_dec * c.n_split_dec + c.n_rope
    if n_layers > n_tensors:
        raise ValueError(
            f"{path} holds {n_tensors} tensors, too few for the {n_layers} layers of its config"
        )


def _expected(config: Config) -> dict[str, Tensor]:
    """The state dict of such a network, without memory behind it."""
    with torch.device("meta"):
        return MoisesLight(**config).state_dict()


def _differences(expected: Mapping[str, Tensor], found: Mapping[str, Any]) -> list[str]:
    """What keeps the found tensors from being the expected ones, a phrase each."""
    problems = [f"missing {key}" for key in expected if key not in found]
    problems += [f"unknown {key}" for key in found if key not in expected]
    for key in filter(found.__contains__, expected):
        wanted, x = expected[key], found[key]
        if not isinstance(x, Tensor):
            problems.append(f"{key} is {type(x).__name__} instead of a tensor")
        elif x.shape != wanted.shape:
            problems.append(f"{key} has shape {list(x.shape)} instead of {list(wanted.shape)}")
        elif x.dtype not in (_STORED if wanted.is_floating_point() else (wanted.dtype,)):
            problems.append(f"{key} is {x.dtype} instead of {wanted.dtype}")
    return problems


def _differences_of_reference(config: Config, state_dict: Mapping[str, Any]) -> list[str]:
    """What keeps these tensors from being the reference's of that config, a phrase each."""
    n_parts = 2 * config.audio_channels
    rebuilt = {
        "stft_window": torch.hann_window(config.win_size),
        "freq_pad": torch.zeros(1, n_parts, config.n_bins - config.freq_dim, 1),
    }
    problems = _differences({**rebuilt, **_expected(config)}, state_dict)
    # The tolerance is what bfloat16 makes of a window.
    return problems or [
        f"{key} has values of its own"
        for key, x in rebuilt.items()
        if not torch.allclose(state_dict[key].float().cpu(), x, atol=4e-3)
    ]


def _not_finite(state_dict: Mapping[str, Tensor]) -> list[str]:
    return [key for key, x in state_dict.items() if not torch.isfinite(x).all()]


def _as_float32(x: Tensor) -> Tensor:
    return x.float() if x.is_floating_point() else x
