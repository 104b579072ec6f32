"""Check that a converted network comes back from its state dictionary."""

import copy

import torch
from torch import Tensor, nn

from lightning_vi.errors import InputValueError

_METHODS = ("_save_to_state_dict", "_load_from_state_dict", "state_dict", "load_state_dict")
_HOOKS = (
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


def check_state_dict(network: nn.Module) -> None:
    """Checks that the state dictionary has every parameter and buffer of a network, and gives it back.

    Names are compared. Where a class or a hook changes how states are saved or loaded, changed values are saved from
    one copy of the network and loaded into another one instead.

    Args:
        network: A converted network.

    Raises:
        ValueError: If a tensor is lost; the error names it and the class or hook.
    """
    suspects = [name or "(root)" for name, module in network.named_modules() if _is_special(module)]
    lost = [] if suspects else sorted(_tensors(network).keys() - network.state_dict().keys())
    if suspects:
        source, target = copy.deepcopy(network), copy.deepcopy(network)
        with torch.no_grad():
            for tensor in {id(each): each for each in _tensors(source).values()}.values():
                tensor.copy_(_changed(tensor))
        target.load_state_dict(source.state_dict(), strict=False)
        saved, loaded = _tensors(source), _tensors(target)
        lost = sorted(name for name in saved if not _same(saved[name], loaded[name]))
    if lost:
        raise InputValueError(
            f"checkpoints of the converted network would lose {lost}: the modules {suspects} have methods or hooks "
            "that change how their state is saved or loaded, and these do not know the posterior's parameters. Let "
            "them call super() and pass on other names, or leave these modules out with stochastic_module_names"
        )


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name."""
    found: dict[str, Tensor] = dict(network.named_parameters(remove_duplicate=False))
    for prefix, module in network.named_modules(remove_duplicate=False):
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                found[f"{prefix}.{name}".removeprefix(".")] = buffer
    return found


def _is_special(module: nn.Module) -> bool:
    """Returns True if a class outside of torch and this package, or a hook, changes how a state is saved or loaded."""
    ours = ("torch.", "lightning_vi.")
    overridden = any(
        name in kind.__dict__
        for kind in type(module).__mro__
        if not kind.__module__.startswith(ours)
        for name in _METHODS
    )
    return overridden or any(getattr(module, name, None) for name in _HOOKS)


def _changed(tensor: Tensor) -> Tensor:
    if tensor.dtype == torch.bool:
        return ~tensor
    return tensor + 1 if not tensor.is_floating_point() and not tensor.is_complex() else 0.5 * tensor + 0.25


def _same(saved: Tensor, loaded: Tensor) -> bool:
    return saved.shape == loaded.shape and torch.equal(saved, loaded)
