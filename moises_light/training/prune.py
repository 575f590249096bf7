"""Start a smaller network from a larger one's: the least useful features or blocks go, or bands.

    python -m moises_light.training.prune checkpoints/fullband_small_wide.safetensors \\
        pruned.safetensors --features 36 --corpus corpus
    python -m moises_light.training.prune checkpoints/paper_small.safetensors \\
        shallow.safetensors --blocks 5 --corpus corpus
    python -m moises_light.training.prune checkpoints/fullband_small_wide.safetensors \\
        low.safetensors --bands 4 --corpus corpus

writes weights that a run with `--start pruned.safetensors` goes on from, and has to: what is left
was never trained to do without what is gone. The second makes a start for `paper_large`, which has
five blocks where `paper_small` has six; the third makes one for `paper_small`, whose four bands are
the lowest of six, with as many features each.

How much a feature is worth is told by the first-order change of the loss where it is silenced: with
the scale `g` and the shift `b` of its batch norm, `g dL/dg + b dL/db` (Molchanov et al., arXiv
1906.10771, sec. 3, for a gate behind the norm). Bands keep their own best features, equally many.
A block of two transformers is worth what the loss rises without it. Batch norms are estimated
anew behind it, since what they were counts what is gone; `--frozen-norms` leaves them as they are,
which is right for bands that had them before the network grew.

What the lowest bands learn by themselves, at less cost, can go back to where they are from:

    python -m moises_light.training.prune checkpoints/fullband_large_wide.safetensors \\
        wide.safetensors --put-back runs/low/model.safetensors
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from moises_light import weights
from moises_light.config import Config, configs
from moises_light.model import (
    Attention,
    FeedForward,
    GroupConv,
    MoisesLight,
    RMSNorm,
    TimeDistributedFrequency,
    TimeDown,
    TimeUp,
)
from moises_light.terminal import at_least, exit_code
from moises_light.training import loop
from moises_light.training.config import TrainConfig
from moises_light.training.history import unscored
from moises_light.training.losses import Objective

EDGE = ""
"""Name of the spaces that no pruning touches: the spectrum and the masks."""

STREAM = "stream"
"""Name of the space that the transformers read and write."""


def spaces(model: MoisesLight) -> Iterator[tuple[str, str, str]]:
    """Every layer by name, with the feature spaces that it reads and writes.

    Layers whose outputs are added or multiplied write one space, so it has one choice of features.
    """
    c = model.config
    yield "first_conv", EDGE, "enter.0"
    for i in range(c.n_enc):
        yield from _block(f"encoder_blocks.{i}", f"enter.{i}", f"leave.{i}", c.n_split_enc)
        yield f"ds.{i}", f"leave.{i}", f"enter.{i + 1}"
    yield from _block("bottleneck.split_merge", f"enter.{c.n_enc}", STREAM, c.n_split_enc)
    at = STREAM
    for k, stage in enumerate(reversed(range(c.n_enc))):
        heavy = k < c.n_dec
        up = f"dec_heavy_us.{k}" if heavy else f"dec_light_us.{k - c.n_dec}"
        yield up, at, f"leave.{stage}"
        at = f"leave.{stage}"
        if heavy:
            yield from _block(f"dec_heavy_blocks.{k}", at, f"decoded.{stage}", c.n_split_dec)
            at = f"decoded.{stage}"
    yield "final_conv", at, EDGE


def _block(name: str, enter: str, leave: str, n_split: int) -> Iterator[tuple[str, str, str]]:
    """The layers of a split-and-merge block."""
    yield f"{name}.res", enter, leave
    at = enter
    for i in range(n_split):
        yield f"{name}.split1.{i}", at, f"{name}.split1.{i}"
        at = f"{name}.split1.{i}"
    yield f"{name}.tdf", at, at
    for i in range(n_split):
        to = leave if i == n_split - 1 else f"{name}.split2.{i}"
        yield f"{name}.split2.{i}", at, to
        at = to


def importance(
    model: MoisesLight, batches: Iterable[tuple[Tensor, Tensor]], bf16: bool = True
) -> dict[str, Tensor]:
    """What each feature of each space is worth, `[D]`, comparable within a space.

    Args:
        model: it stays as it is.
        batches: mixture `[B, C, L]` and the network's sources `[B, S, C, L]`.
        bf16: see `Objective`, whose loss is `bands`.
    """
    model = deepcopy(model).train()
    objective = Objective(model, "bands", bf16)
    worth: dict[str, Tensor] = {}
    for mixture, sources in batches:
        model.zero_grad()
        objective(mixture, sources).mean().backward()
        for name, _, space in spaces(model):
            for norm in loop.batch_norms(model.get_submodule(name)) if space else ():
                assert norm.weight.grad is not None
                assert norm.bias.grad is not None
                change = norm.weight * norm.weight.grad + norm.bias * norm.bias.grad
                worth[space] = worth.get(space, 0) + change.detach().square()
    return worth


@torch.no_grad()
def loss(model: MoisesLight, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Mean of the loss `bands`, in the mode that the network is in, see `importance`."""
    objective = Objective(model, "bands", bf16=False)
    return float(torch.stack([objective(*batch).mean() for batch in batches]).mean())


@torch.no_grad()
def without_block(model: MoisesLight, block: int) -> MoisesLight:
    """The network without one of its dual-path blocks: what the block added is all that changes.

    A transformer also doubles what passes it (see `MoisesLight.depth_gains`). So the outputs of the
    later ones shrink to a quarter, and so does what the layer behind the last one adds and expects.
    (Its weights stay: AdamW's steps do not know a weight's size, and four times larger ones would
    learn four times more slowly.)

    Raises:
        ValueError: if the network has no block of that number, from 0.
    """
    c = model.config
    if not 0 <= block < c.n_rope:
        raise ValueError(f"block={block}; the network has n_rope={c.n_rope}, counted from 0")
    result = MoisesLight(**shallower_config(c, c.n_rope - 1))
    gains = model.depth_gains()
    state = {}
    for name, value in model.state_dict().items():
        before, blocks, rest = name.partition("rope_blocks.")
        number, _, of_block = rest.partition(".")
        if blocks and int(number) > block:
            shrunk = value / 4 if name in gains else value
            state[f"{before}{blocks}{int(number) - 1}.{of_block}"] = shrunk
        elif not blocks or int(number) < block:
            state[name] = value
    result.load_state_dict(state)
    behind = next(name for name, reads, _ in spaces(result) if reads == STREAM)
    result.get_parameter(f"{behind}.conv.bias").div_(4)
    norm = cast(nn.BatchNorm2d, result.get_submodule(f"{behind}.bn"))
    cast(Tensor, norm.running_mean).div_(4)
    cast(Tensor, norm.running_var).div_(16)
    return result.train(model.training)


def shallower(
    model: MoisesLight, n_blocks: int, batches: Sequence[tuple[Tensor, Tensor]]
) -> tuple[MoisesLight, list[int]]:
    """The network with `n_rope=n_blocks`, and the numbers of the blocks that went, one by one.

    Each time the block goes without which the loss is lowest.

    Raises:
        ValueError: see `shallower_config`.
    """
    shallower_config(model.config, n_blocks)
    left, gone = list(range(model.config.n_rope)), []
    while len(left) > n_blocks:
        candidates = [without_block(model, place) for place in range(len(left))]
        losses = [loss(candidate, batches) for candidate in candidates]
        best = losses.index(min(losses))
        model = candidates[best]
        gone.append(left.pop(best))
    return model, gone


@torch.no_grad()
def lower(model: MoisesLight, n_bands: int) -> MoisesLight:
    """The network with its lowest `n_bands` bands, and all of their features: `grow` undone.

    What they heard of the bands above is lost, in the transformers and where the time axis changes.

    Raises:
        ValueError: see `lower_config`.
    """
    result = MoisesLight(**lower_config(model.config, n_bands))
    keep = _lowest(model, n_bands)
    _copy(model, result, keep, _strongest(model, result, keep))
    # fewer bins above the music raise the deviation by which the input is divided
    result.first_conv.conv.weight *= (model.config.n_bands / n_bands) ** 0.5
    return result.train(model.training)


@torch.no_grad()
def put_back(low: MoisesLight, model: MoisesLight) -> MoisesLight:
    """The network with its lowest bands as they have become since `lower` took them from it.

    What it has of the bands above stays, and so does what these and the lowest hear of each other.
    That fits as long as the lowest have not moved far.

    Args:
        low: what a run made of `lower(model, n_bands)`.
        model: it stays as it is.

    Raises:
        ValueError: if `low` is not a network of the lowest bands of `model`.
    """
    n_bands = low.config.n_bands
    expected = lower_config(model.config, n_bands)
    odd = [k for k in dict(expected) if expected[k] != low.config[k]]
    if odd:
        told = ", ".join(f"{k}={low.config[k]!r} and not {expected[k]!r}" for k in odd)
        raise ValueError(f"{told}; give a network of the lowest bands of the other")
    keep = _lowest(model, n_bands)
    # where each weight of the lower network came from: it is cut from a network of numbers
    numbers, places = deepcopy(model).double(), deepcopy(low).double()
    for value in (*numbers.state_dict().values(), *places.state_dict().values()):
        value.copy_(torch.arange(value.numel()).view_as(value))
    _copy(numbers, places, keep, _strongest(model, low, keep))
    result = deepcopy(model)
    state, found = result.state_dict(), places.state_dict()
    for name, value in low.state_dict().items():
        if value.is_floating_point():
            if name == "first_conv.conv.weight":  # see `lower`
                value = value * (n_bands / model.config.n_bands) ** 0.5
            state[name].view(-1)[found[name].long().flatten()] = value.flatten()
    return result


def _lowest(model: MoisesLight, n_bands: int) -> dict[str, Tensor]:
    """The features of the lowest bands, for each space."""
    return {
        space: torch.arange(norm.num_features // model.config.n_bands * n_bands)
        for name, _, space in spaces(model)
        if space
        for norm in loop.batch_norms(model.get_submodule(name))
    }


def lower_config(config: Config, n_bands: int) -> Config:
    """The config with `n_bands` bands of the same width and of as many features each.

    Raises:
        ValueError: if that is less than one, or not less than it has.
    """
    if not 0 < n_bands < config.n_bands:
        raise ValueError(
            f"n_bands={n_bands}; choose at least 1 and less than the {config.n_bands} there are"
        )
    share = {key: config[key] // config.n_bands * n_bands for key in ("G", "freq_dim")}
    return replace(config, n_bands=n_bands, **share)


def narrower_config(config: Config, features: int) -> Config:
    """The config with `G=features`.

    Raises:
        ValueError: if `features` is not smaller or does not share out among the bands.
    """
    if features >= config.G:
        raise ValueError(f"G={features} is not less than G={config.G}; choose a smaller one")
    return replace(config, G=features)


def shallower_config(config: Config, n_blocks: int) -> Config:
    """The config with `n_rope=n_blocks`.

    Raises:
        ValueError: if that is negative, or not less than it has.
    """
    if not 0 <= n_blocks < config.n_rope:
        raise ValueError(
            f"n_rope={n_blocks}; choose at least 0 and less than the {config.n_rope} that there are"
        )
    return replace(config, n_rope=n_blocks)


@torch.no_grad()
def prune(model: MoisesLight, features: int, worth: Mapping[str, Tensor]) -> MoisesLight:
    """The network with `G=features` that keeps the most useful features of each band.

    Args:
        model: the wider network.
        features: `G` of the narrower one.
        worth: of each space's features, see `importance`.

    Raises:
        ValueError: see `narrower_config`.
    """
    result = MoisesLight(**narrower_config(model.config, features))
    n_bands = model.config.n_bands
    keep = {
        space: _best(value, len(value) // model.config.G * features, n_bands)
        for space, value in worth.items()
    }
    _copy(model, result, keep, _strongest(model, result, keep))
    return result.train(model.training)


def _strongest(
    model: MoisesLight, result: MoisesLight, keep: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The hidden units that feed-forward layers keep, by name: those that say most of what stays.

    Args:
        model: the larger network.
        result: the smaller one, for its sizes.
        keep: features that stay, for each space.
    """
    kept, units = keep[STREAM], {}
    for name, old in model.named_modules():
        if isinstance(old, FeedForward):
            inner, outer = cast(nn.Linear, old.net["1"]), cast(nn.Linear, old.net["4"])
            heard = inner.weight[:, kept] * cast(RMSNorm, old.net["0"]).gamma[kept]
            strength = heard.norm(dim=1) * outer.weight[kept].norm(dim=0)
            left = len(cast(nn.Linear, result.get_submodule(f"{name}.net.1")).weight)
            units[name] = strength.topk(left).indices.sort().values
    return units


def _copy(
    model: MoisesLight,
    result: MoisesLight,
    keep: Mapping[str, Tensor],
    units: Mapping[str, Tensor],
) -> None:
    """Fill the smaller network with what is left of the larger one.

    Args:
        model: the larger network.
        result: the smaller one.
        keep: features that stay, for each space.
        units: hidden units that stay, for each feed-forward layer.
    """
    modules = dict(result.named_modules())
    n_bands = result.config.n_bands
    for name, reads, writes in spaces(model):
        into = modules[name]
        # the last convolution writes what the masks are made of: all that the lower bands have
        out = keep[writes] if writes else torch.arange(cast(GroupConv, into).conv.out_channels)
        _keep(model.get_submodule(name), into, keep.get(reads), out, n_bands)
    for name, old in model.named_modules():
        _keep_stream(old, modules[name], keep[STREAM], units.get(name))
    result.source_head.load_state_dict(model.source_head.state_dict())


def _best(worth: Tensor, n: int, n_bands: int) -> Tensor:
    """Numbers of the `n` features to keep, equally many of each band, in order: `[n]`."""
    by_band = worth.unflatten(0, (n_bands, -1))
    best = by_band.topk(n // n_bands, dim=1).indices.sort(dim=1).values
    return (best + torch.arange(n_bands)[:, None] * by_band.shape[1]).flatten()


def _keep(
    old: nn.Module, new: nn.Module, reads: Tensor | None, writes: Tensor, n_bands: int
) -> None:
    """Copy what a layer keeps: the features that it reads, all where `None`, and that it writes."""
    if isinstance(old, GroupConv):
        _grouped(old.conv, cast(GroupConv, new).conv, reads, writes, n_bands)
    elif isinstance(old, TimeDistributedFrequency):
        for fc in ("fc1", "fc2"):
            new.get_submodule(fc).load_state_dict(old.get_submodule(fc).state_dict())
    elif isinstance(old, TimeDown | TimeUp):
        assert reads is not None
        into = cast(TimeDown | TimeUp, new)
        first, second = (writes, reads) if isinstance(old, TimeDown) else (reads, writes)
        into.conv.weight.copy_(old.conv.weight[first][:, second])
        cast(Tensor, into.conv.bias).copy_(cast(Tensor, old.conv.bias)[writes])
    for a, b in zip(loop.batch_norms(old), loop.batch_norms(new), strict=True):
        for key in ("weight", "bias", "running_mean", "running_var"):
            getattr(b, key).copy_(getattr(a, key)[writes])


def _grouped(
    old: nn.Conv2d, new: nn.Conv2d, reads: Tensor | None, writes: Tensor, n_bands: int
) -> None:
    weight = old.weight[writes]
    if reads is not None:  # a band's features are numbered from its first one
        local = reads.unflatten(0, (n_bands, -1)) % old.weight.shape[1]
        bands = weight.unflatten(0, (n_bands, -1))
        weight = torch.cat([band[:, own] for band, own in zip(bands, local, strict=True)])
    new.weight.copy_(weight)
    cast(Tensor, new.bias).copy_(cast(Tensor, old.bias)[writes])


def _keep_stream(old: nn.Module, new: Any, kept: Tensor, units: Tensor | None) -> None:
    """Copy what a part of a transformer keeps of the features that pass it and of its own units."""
    if isinstance(old, RMSNorm):
        new.gamma.copy_(old.gamma[kept])
    elif isinstance(old, Attention):
        new.to_qkv.weight.copy_(old.to_qkv.weight[:, kept])
        new.to_gates.weight.copy_(old.to_gates.weight[:, kept])
        new.to_gates.bias.copy_(old.to_gates.bias)
        new.to_out[0].weight.copy_(cast(nn.Linear, old.to_out[0]).weight[kept])
    elif isinstance(old, FeedForward):
        inner, outer = cast(nn.Linear, old.net["1"]), cast(nn.Linear, old.net["4"])
        new.net["1"].weight.copy_(inner.weight[units][:, kept])
        new.net["1"].bias.copy_(inner.bias[units])
        new.net["4"].weight.copy_(outer.weight[kept][:, units])
        new.net["4"].bias.copy_(outer.bias[kept])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m moises_light.training.prune")
    parser.add_argument("weights", type=Path, help=".safetensors file of the wider network")
    parser.add_argument("out", type=Path, help=".safetensors file to write")
    parser.add_argument("--features", type=int, help="G of the narrower network")
    parser.add_argument("--blocks", type=int, help="n_rope of the shallower network")
    parser.add_argument("--bands", type=int, help="n_bands of the network with the lowest bands")
    parser.add_argument("--corpus", type=Path, default=Path("corpus"))
    parser.add_argument(
        "--batches",
        type=at_least(1),
        default=16,
        help="of examples of two seconds (default: %(default)s)",
    )
    parser.add_argument("--batch-size", type=at_least(1), default=4)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument(
        "--frozen-norms", action="store_true", help="batch norms are not estimated anew"
    )
    parser.add_argument(
        "--put-back", type=Path, help="weights of the lowest bands, trained on; nothing is pruned"
    )
    args = parser.parse_args(arguments)
    found = weights.load(args.weights)
    model = MoisesLight(**found.config)
    model.load_state_dict(found.state_dict)
    # what is wrong is told before the work, not after it
    weights.check_name(args.out)
    cuts = (args.features, args.blocks, args.bands)
    if args.put_back is not None:
        if cuts != (None, None, None):
            raise ValueError("--put-back goes without --features, --blocks and --bands")
        learnt = weights.load(args.put_back)
        low = MoisesLight(**learnt.config)
        low.load_state_dict(learnt.state_dict)
        card = unscored(learnt.metadata["card"])
        card["put_back"] = found.metadata["preset"] or args.weights.stem
        _save(put_back(low, model), args.out, card)
        return 0
    if cuts == (None, None, None):
        raise ValueError("nothing to prune; give --features, --blocks, --bands or several")
    config = found.config
    if args.bands is not None:
        config = lower_config(config, args.bands)
    if args.features is not None:
        narrower_config(config, args.features)
    if args.blocks is not None:
        shallower_config(config, args.blocks)
    size = args.batch_size
    run = TrainConfig(frames=88, batch_size=size, bf16=args.bf16)
    chosen = args.blocks is not None or args.features is not None
    batches = []
    if chosen or not args.frozen_norms:  # else no example is heard
        from moises_light.training.mixing import dataset_of, draw_batch

        dataset = dataset_of(run, args.corpus)
    if chosen:
        firsts = range(0, args.batches * size, size)
        batches = [draw_batch(dataset, range(i, i + size), model.sources) for i in firsts]
    card = unscored(found.metadata["card"])
    if args.bands is not None:
        model = lower(model, args.bands)
        card["lowest_bands"] = args.bands
    if args.blocks is not None:
        model, card["removed"] = shallower(model.eval(), args.blocks, batches)
    if args.features is not None:
        model = prune(model, args.features, importance(model, batches, args.bf16))
        card["pruned"] = args.features
    if not args.frozen_norms:
        model = loop.calibrated(model, run, dataset, "cpu")
        card["norms_anew"] = loop.calibration_examples(run)
    _save(model, args.out, card)
    return 0


def _save(model: MoisesLight, out: Path, card: Mapping[str, Any]) -> None:
    preset = next((name for name, config in configs.items() if config == model.config), "")
    weights.save(model, out, {"preset": preset, "card": card}, torch.float16)
    print(out)


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
