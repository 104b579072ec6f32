"""Choice of gradient estimators after a trial pass."""

from collections.abc import Mapping

from lightning_vi.errors import InputValueError
from lightning_vi.layers import ACTIVATION_SPACE, VariationalLayer
from lightning_vi.sampling.probe import Probe

WEIGHT_SPACE = "reparameterization"


def settle_estimators(layers: Mapping[str, VariationalLayer], seen: Probe) -> None:
    """Replaces estimators that sample a layer's outputs where this is not the same as sampling its weights.

    Args:
        layers: The layers, by name.
        seen: How the network uses them.

    Raises:
        ValueError: If the estimator of such a layer was chosen by the user, and the layer is called several times, or
            its weight is read without a call.
    """
    for name, layer in layers.items():
        owner = layer._stochastic
        why = _obstacle(layer, seen)
        if owner.estimator not in ACTIVATION_SPACE or why is None:
            continue
        if not owner.is_estimator_fixed:
            owner.replace_estimator(WEIGHT_SPACE, why)
        elif layer in seen.read:
            raise InputValueError(
                f"estimator={owner.estimator!r} draws the outputs of {name!r} when it is called, but its weight is "
                f"read without a call too: use 'auto' or {WEIGHT_SPACE!r}"
            )
        elif (times := seen.num_calls.get(layer, 0)) > 1:
            raise InputValueError(
                f"estimator={owner.estimator!r} draws the outputs of {name!r} independently in each of its {times} "
                f"calls in one pass, but its weight is the same in all: use 'auto' or {WEIGHT_SPACE!r}"
            )


def _obstacle(layer: VariationalLayer, seen: Probe) -> str | None:
    """Reason why noise on a layer's outputs differs from noise on its weights, None if it does not."""
    times = seen.num_calls.get(layer, 0)
    if layer in seen.read:
        return "its weight is read without a call"
    if times == 0:
        return "not called with the first batch"
    if times > 1:
        return f"called {times} times in one pass"
    if layer in seen.several_rows:
        return "several rows for each datum"
    return "its rows are mixed behind it" if layer in seen.mixed else None
