"""Checkpoints of trainings: weights, moments of AdamW and a few words, in one safetensors file that resumes exactly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

MOMENTS = ("exp_avg", "exp_avg_sq")


def save(
    path: Path, networks: Mapping[str, torch.nn.Module], optimizer: torch.optim.Optimizer, metadata: Mapping[str, str]
) -> None:
    """Write the weights of networks by name, AdamW's moments of the first network, and `metadata`."""
    from safetensors.torch import save_file

    held = {
        f"{name}.{key}": value.detach().cpu().contiguous().clone()
        for name, network in networks.items()
        for key, value in network.state_dict().items()
    }
    held |= {f"{moment}.{name}": value.cpu().contiguous() for name, moment, value in _moments(networks, optimizer)}
    save_file(held, path, dict(metadata))


def load(
    path: Path, networks: Mapping[str, torch.nn.Module], optimizer: torch.optim.Optimizer, steps: str = "steps"
) -> dict[str, str]:
    """Restore what `save` wrote, and return its metadata, whose key `steps` has the number of completed steps."""
    import torch
    from safetensors import safe_open

    first = next(iter(networks.values()))
    device = str(next(first.parameters()).device)
    with safe_open(path, "pt", device=device) as file:
        metadata: dict[str, str] = file.metadata()
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is not a mapping)
    for name, network in networks.items():
        prefix = f"{name}."
        network.load_state_dict({key.removeprefix(prefix): held[key] for key in held if key.startswith(prefix)})
    for name, parameter in first.named_parameters():
        if f"{MOMENTS[0]}.{name}" in held:
            moments = {moment: held[f"{moment}.{name}"] for moment in MOMENTS}
            where = parameter.device if optimizer.defaults.get("fused") else "cpu"
            optimizer.state[parameter] = {"step": torch.tensor(float(metadata[steps]), device=where), **moments}
    return metadata


def _moments(
    networks: Mapping[str, torch.nn.Module], optimizer: torch.optim.Optimizer
) -> Iterator[tuple[str, str, Any]]:
    for name, parameter in next(iter(networks.values())).named_parameters():
        for moment in MOMENTS if parameter in optimizer.state else ():
            yield name, moment, optimizer.state[parameter][moment]
