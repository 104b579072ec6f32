"""How samples may be run."""

from collections.abc import Mapping
from typing import Literal

from torch import nn

from lightning_vi.layers import VariationalLayer, stochastic_parameters

Vectorization = Literal["auto", "repeat", "vmap", "loop"]
VECTORIZATIONS: tuple[Vectorization, ...] = ("auto", "repeat", "vmap", "loop")


def check_options(vectorization: str, antithetic: bool, modules: Mapping[str, nn.Module]) -> None:
    """Refuses options that cannot serve a network.

    Args:
        vectorization: How samples are run.
        antithetic: Whether noise comes in pairs.
        modules: The network's modules by name.

    Raises:
        ValueError: If `vectorization` is unknown or cannot serve a module, or `antithetic` is wished for with flipout.
    """
    if vectorization not in VECTORIZATIONS:
        raise ValueError(f"vectorization must be one of {VECTORIZATIONS}, got {vectorization!r}")
    stochastic = {name: module for name, module in modules.items() if stochastic_parameters(module) is not None}
    others = [type(module).__name__ for module in stochastic.values() if not isinstance(module, VariationalLayer)]
    if vectorization == "repeat" and others:
        raise ValueError(
            "vectorization='repeat' needs layers that are linear in their weights, but these are stochastic too: "
            f"{others}"
        )
    layers = {name: module for name, module in stochastic.items() if isinstance(module, VariationalLayer)}
    flipped = [name for name, layer in layers.items() if layer.estimator == "flipout"]
    if antithetic and flipped:
        raise ValueError(f"antithetic noise and flipout's random signs exclude each other, but {flipped} use flipout")
