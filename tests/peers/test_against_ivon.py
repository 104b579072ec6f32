"""`IVONOptimizer` against the reference implementation, with the same noise."""

from typing import Any

import pytest
import torch

from lightning_vi.optim import IVONOptimizer

ivon = pytest.importorskip("ivon")


@pytest.mark.parametrize("weight_decay", [1e-4, 0.1])
@pytest.mark.parametrize("clip_radius", [float("inf"), 1e-3])
def test_steps_agree_with_the_reference(
    weight_decay: float, clip_radius: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = torch.randn(20, 3), torch.randn(20, 1)
    ours = torch.nn.Linear(3, 1)
    theirs = torch.nn.Linear(3, 1)
    theirs.load_state_dict(ours.state_dict())
    options: dict[str, Any] = {
        "lr": 0.1, "ess": 50.0, "hess_init": 0.7, "weight_decay": weight_decay, "clip_radius": clip_radius
    }  # fmt: skip
    optimizer = IVONOptimizer(ours.parameters(), betas=(0.9, 0.99), **options)
    reference = ivon.IVON(theirs.parameters(), beta1=0.9, beta2=0.99, **options)
    for _ in range(20):
        means = [parameter.detach().clone() for parameter in ours.parameters()]
        with optimizer.sampled_params(train=True):
            drawn = [parameter.detach().clone() for parameter in ours.parameters()]
            (ours(x) - y).square().mean().backward()
        noise = torch.cat([(draw - mean).flatten() for draw, mean in zip(drawn, means, strict=True)])
        group = reference.param_groups[0]
        unit = noise * (group["ess"] * (group["hess"] + group["weight_decay"])).sqrt()
        with monkeypatch.context() as patch:
            patch.setattr(torch, "randn", lambda *_, unit=unit, **__: unit)
            with reference.sampled_params(train=True):
                reference.zero_grad()
                (theirs(x) - y).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        reference.step()
        for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)
