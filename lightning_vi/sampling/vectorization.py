"""Ways to run S samples of a network, and checks that a network can be run so."""

from collections.abc import Collection, Iterable, Mapping
from typing import Literal

from torch import nn

from lightning_vi.errors import InputValueError
from lightning_vi.layers import VariationalLayer

Vectorization = Literal["auto", "repeat", "vmap", "loop"]
VECTORIZATIONS: tuple[Vectorization, ...] = ("auto", "repeat", "vmap", "loop")


def check_options(
    vectorization: str, antithetic: bool, modules: Iterable[nn.Module], layers: Mapping[str, VariationalLayer]
) -> None:
    """Checks how a network is to be run, before its first pass.

    Args:
        vectorization: How samples are run.
        antithetic: Whether noise is drawn in antithetic pairs.
        modules: The stochastic modules.
        layers: The variational layers, by name.

    Raises:
        ValueError: If `vectorization` is unknown or does not support a module, or a layer uses flipout with antithetic
            noise.
    """
    if vectorization not in VECTORIZATIONS:
        raise InputValueError(f"vectorization must be one of {VECTORIZATIONS}, got {vectorization!r}")
    others = [type(module).__name__ for module in modules if not isinstance(module, VariationalLayer)]
    if vectorization == "repeat" and others:
        raise InputValueError(
            f"vectorization='repeat' needs layers that are linear in their weights, but {others} are stochastic too"
        )
    flipped = [name for name, layer in layers.items() if layer.estimator == "flipout"]
    if antithetic and flipped:
        raise InputValueError(f"antithetic noise cannot be combined with random signs, but {flipped} use flipout")


def check_copies(
    layers: Mapping[str, VariationalLayer], read: Collection[VariationalLayer], copies_stay_apart: bool
) -> None:
    """Checks after a trial pass that copies of the batch can be run in one pass.

    Args:
        layers: The variational layers, by name.
        read: Layers whose weights are read without a call.
        copies_stay_apart: Whether the network gives the same outputs for copies of the batch.

    Raises:
        ValueError: If it cannot be run so.
    """
    names = [name for name, layer in layers.items() if layer in read]
    if names:
        raise InputValueError(
            f"vectorization='repeat' stacks weights, but the weights of {names} are read without a call: use 'auto'"
        )
    if not copies_stay_apart:
        raise InputValueError(
            "vectorization='repeat' runs copies of the batch in one pass, but the network gives other outputs for "
            "them: an input tensor has another first dimension than the output, or rows are summed. Use 'auto'"
        )
