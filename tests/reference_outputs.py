"""Runs the reference package in a process of its own, since its import name is ours too.

    python reference_outputs.py FOLDER_OF_THE_UNPACKED_WHEEL OUTPUT_FOLDER PRESET...

writes `<preset>.safetensors`: its state dict (`state.*`), inputs and outputs.
"""

import sys
import warnings
from pathlib import Path

import torch
from safetensors.torch import save_file

LENGTHS = (1, 1023, 1024, 60_000)


def randomize(model: torch.nn.Module) -> None:
    """Give every parameter and statistic a value that shows: fresh ones hide many mistakes."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2.0)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    for name, parameter in model.named_parameters():
        if name.endswith("gamma"):
            parameter.data.uniform_(0.5, 1.5)
        if "to_out" in name:  # zero at the start: the attention would not count
            parameter.data.normal_(0, 0.05)


def main() -> None:
    wheel, folder, presets = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    sys.path.insert(0, wheel)
    warnings.simplefilter("ignore")
    from moises_light import MoisesLight, configs

    for preset in presets:
        torch.manual_seed(0)
        model = MoisesLight(**configs[preset])
        randomize(model)
        tensors = {f"state.{k}": x.clone() for k, x in model.state_dict().items()}
        model.eval()
        with torch.no_grad():
            for length in LENGTHS:
                tensors[f"input.{length}"] = x = 0.1 * torch.randn(1, 2, length)
                tensors[f"output.{length}"] = model(x)
            tensors["input.train"] = x = 0.1 * torch.randn(2, 2, 20_000)
            tensors["output.train"] = model.train()(x)
        tensors["running_var"] = model.state_dict()["first_conv.bn.running_var"].clone()
        save_file({k: x.contiguous() for k, x in tensors.items()}, folder / f"{preset}.safetensors")


if __name__ == "__main__":
    main()
