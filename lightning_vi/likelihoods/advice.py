"""Advice where the shapes of outputs and targets do not fit; the ends of error messages."""

from torch import Size, Tensor


def on_regression_outputs(name: str, outputs: Tensor, num_targets: int, num_outputs: int, target: Tensor | None) -> str:
    """Advice on network outputs of the wrong width.

    Args:
        name: Name of the likelihood.
        outputs: Shape [S, B, ...].
        num_targets: D.
        num_outputs: Width that the likelihood needs.
        target: Targets, if they are known.

    Returns:
        The end of a sentence.
    """
    width = outputs.shape[-1]
    columns = 0 if target is None or target.dim() < 2 else target.shape[-1]
    if outputs.dim() > 3 and outputs.shape[2] == num_outputs:
        return (
            f": for targets in dimension 1, use ChannelsFirst({name}(num_targets={num_targets})); or end the network "
            "with output.movedim(1, -1), and give target.movedim(1, -1)"
        )
    if columns != num_targets and width * num_targets == columns * num_outputs:
        return f"; for the {columns} columns of the targets, use {name}(num_targets={columns})"
    return f": build the network with {num_outputs} outputs, such as n_outputs={num_outputs}"


def on_regression_targets(name: str, target: Tensor, expected: Size, num_outputs: int) -> str:
    """Advice on targets of the wrong shape.

    Args:
        name: Name of the likelihood.
        target: Targets.
        expected: Their right shape [B, ..., D].
        num_outputs: Width of the network's output.

    Returns:
        The end of a sentence.
    """
    shape = target.shape
    if shape == expected[:-1] and expected[-1] == 1:
        return ": use target.unsqueeze(-1)"
    if len(shape) > 2 and target.movedim(1, -1).shape == expected:
        return ": use target.movedim(1, -1)"
    if len(shape) == len(expected) and shape[:-1] == expected[:-1]:
        width = num_outputs // expected[-1] * shape[-1]
        return f": for {shape[-1]} targets, use {name}(num_targets={shape[-1]}) and a network with {width} outputs"
    if shape[:1] != expected[:1]:
        return ": inputs and targets must have the same number of rows"
    return ""


def on_labels(target: Tensor, expected: Size, num_classes: int) -> str:
    """Advice on labels of the wrong shape.

    Args:
        target: Labels.
        expected: Their right shape [B, ...].
        num_classes: C.

    Returns:
        The end of a sentence.
    """
    shape = target.shape
    for dim in range(1, len(shape)):
        if shape[:dim] + shape[dim + 1 :] == expected:
            if shape[dim] == 1:
                return f": use target.squeeze({dim})" + (".long()" if target.is_floating_point() else "")
            if shape[dim] == num_classes:
                return f": for one-hot labels, use target.argmax({dim})"
    if shape[:1] != expected[:1]:
        return ": inputs and labels must have the same number of rows"
    return ""
