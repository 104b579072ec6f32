"""Converted networks come back from their state dictionaries, or are refused by name."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from helpers import randomize_posteriors
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from lightning_vi import SNGP, MeanFieldVI, RankOneVI
from lightning_vi.likelihoods import Gaussian


class Packed(nn.Linear):
    """Saves and loads one tensor with weight and bias, and nothing else."""

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}packed"] = torch.cat([self.weight, self.bias.unsqueeze(1)], 1).detach()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
        packed = state_dict[f"{prefix}packed"]
        with torch.no_grad():
            self.weight.copy_(packed[:, :-1])
            self.bias.copy_(packed[:, -1])


class Renamed(nn.Linear):
    """Adds a version to its state, and passes on the rest."""

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}version"] = torch.tensor(1)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
        state_dict.pop(f"{prefix}version", None)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def lazy() -> nn.Module:
    network = nn.LazyLinear(2)
    network(torch.zeros(1, 3))
    return network


def with_harmless_hook() -> nn.Module:
    layer = nn.Linear(3, 2)
    layer._register_load_state_dict_pre_hook(lambda state, *_: None)
    return layer


def dropping() -> nn.Module:
    """Drops the posterior's scales by a hook, after the module has saved them."""
    layer = nn.Linear(3, 2)

    def drop(_: nn.Module, state: dict[str, Tensor], prefix: str, __: Any) -> None:
        for name in [name for name in state if name.startswith(prefix) and name.endswith("_rho")]:
            del state[name]

    layer.register_state_dict_post_hook(drop)
    return layer


def overwriting() -> nn.Module:
    """Loads weights of zero by a hook."""
    layer = nn.Linear(3, 2)

    def reset(module: nn.Module, _: Any) -> None:
        with torch.no_grad():
            next(module.parameters()).zero_()

    layer.register_load_state_dict_post_hook(reset)
    return layer


def spread(method: MeanFieldVI) -> Tensor:
    return method.predict(torch.ones(2, 3), num_samples=20, seed=1).epistemic_var


@pytest.mark.parametrize("kind", [MeanFieldVI, RankOneVI])
@pytest.mark.parametrize(
    "make",
    [partial(Packed, 3, 2), partial(Renamed, 3, 2), lazy, with_harmless_hook],
    ids=["own format", "more tensors", "lazy", "harmless hook"],
)
def test_the_posterior_comes_back(make: Callable[[], nn.Module], kind: Any) -> None:
    backbone = make()
    saved, loaded = (kind(backbone, Gaussian(0.5, 2)) for _ in range(2))
    randomize_posteriors(saved.backbone)
    result = loaded.load_state_dict(saved.state_dict(), strict=False)
    assert not result.missing_keys
    torch.testing.assert_close(spread(loaded), spread(saved))
    assert spread(saved).min() > 0


def test_originals_behind_parametrizations_come_back() -> None:
    backbone = weight_norm(nn.Linear(3, 2))
    saved, loaded = (MeanFieldVI(backbone, Gaussian(0.5, 2)) for _ in range(2))
    randomize_posteriors(saved.backbone)
    loaded.load_state_dict(saved.state_dict())
    torch.testing.assert_close(spread(loaded), spread(saved))


@pytest.mark.parametrize(("make", "lost"), [(dropping, "weight_rho"), (overwriting, "weight_mu")])
def test_a_hook_that_loses_the_posterior_is_refused(make: Callable[[], nn.Module], lost: str) -> None:
    network = nn.Sequential(nn.Linear(3, 3), make())
    with pytest.raises(ValueError, match=rf"would lose .*{lost}.*\['1'\].*super\(\)"):
        MeanFieldVI(network, Gaussian(0.5, 2))
    if make is dropping:
        MeanFieldVI(network, Gaussian(0.5, 2), stochastic_module_names=[0])


def test_bounded_layers_are_checked_too() -> None:
    with pytest.raises(ValueError, match=r"would lose .*unbounded_weight"):
        SNGP(nn.Sequential(Packed(3, 3), nn.Linear(3, 1)), Gaussian(0.5))
