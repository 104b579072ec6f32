"""Advice for a fit that did not learn, which leaves out what has been done already."""

from collections.abc import Collection, Sequence

REMEDIES = {
    "kl_warmup_epochs": "leave out kl_warmup_epochs, so that the KL weight increases over 90% of the fit",
    "fewer_kl_warmup_epochs": "choose fewer kl_warmup_epochs",
    "prior": "leave out prior: the default one finds the scale of the weights",
    "init_std": "leave out init_std, or choose a smaller one",
    "optimizer": "leave out optimizer, so that the learning rate follows from the network and the length of the fit",
    "lr_scheduler": "leave out lr_scheduler, so that the learning rate decays to zero",
    "from_pretrained": "begin with a trained network (from_pretrained)",
    "correlations": "take a posterior with correlations (MatrixVariateVI)",
    "kl_weight": "give kl_weight below 1",
    "lr": "raise the learning rate (the method's `lr`)",
    "epochs": "train for more epochs",
    "network": "take a smaller network",
}
"""Changes that help, by name."""
ALWAYS = {"kl_weight", "lr", "epochs", "network"}
"""Names of remedies that are open to each method."""


def advice(names: Sequence[str], open_remedies: Collection[str]) -> str:
    """Writes a sentence of advice.

    Args:
        names: Names of remedies, the best one first.
        open_remedies: Those that would change something in the method.

    Returns:
        The sentence, with at least one remedy that is open to each method.

    Example:
        >>> advice(["init_std", "epochs"], open_remedies=["init_std"])
        'Leave out init_std, or choose a smaller one; or train for more epochs.'
        >>> advice(["init_std", "epochs"], open_remedies=[])
        'Train for more epochs.'
    """
    chosen = [REMEDIES[name] for name in names if name in ALWAYS or name in open_remedies]
    sentence = "; ".join([*chosen[:-1], f"or {chosen[-1]}" if len(chosen) > 1 else chosen[-1]])
    return f"{sentence[0].upper()}{sentence[1:]}."
