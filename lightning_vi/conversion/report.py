"""What became of each module of a network."""

from dataclasses import dataclass, replace

from torch import nn

from lightning_vi.layers import stochastic_parameters


@dataclass(frozen=True)
class ModuleReport:
    """What became of one module.

    Attributes:
        name: Its dotted name in the network, empty for the network itself.
        kind: The name of its class before conversion.
        num_parameters: Number of weights that it owns itself.
        num_stochastic: How many of them have a posterior now.
        estimator: The gradient estimator, None for a deterministic module.
        reason: Why it is as it is.
    """

    name: str
    kind: str
    num_parameters: int
    num_stochastic: int
    estimator: str | None
    reason: str

    @property
    def stochastic(self) -> bool:
        """Whether any of its weights has a posterior."""
        return self.num_stochastic > 0


@dataclass(frozen=True)
class ConversionReport:
    """A row for each module that owns parameters; prints as a table.

    Attributes:
        modules: The rows, in the network's order.
        num_parameters: Number of weights in the network. One that several modules share counts once here, and in
            the row of each of them.
        num_stochastic: How many of them have a posterior, counted alike.
    """

    modules: tuple[ModuleReport, ...]
    num_parameters: int
    num_stochastic: int

    def updated(self, network: nn.Module) -> "ConversionReport":
        """The report with the estimators that the network's modules have by now.

        Args:
            network: The converted network.

        Returns:
            A new report.
        """
        return replace(self, modules=tuple(_updated(row, network) for row in self.modules))

    def __str__(self) -> str:
        header = ("module", "kind", "parameters", "stochastic", "estimator", "why")
        rows = [
            (
                m.name or "(root)",
                m.kind,
                str(m.num_parameters),
                "yes" if m.stochastic else "no",
                m.estimator or "-",
                m.reason,
            )
            for m in self.modules
        ]
        rows.append(("total", "", str(self.num_parameters), str(self.num_stochastic), "", ""))
        widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *rows]
        ]
        return "\n".join(line.rstrip() for line in lines)


def _updated(row: ModuleReport, network: nn.Module) -> ModuleReport:
    stochastic = stochastic_parameters(network.get_submodule(row.name))
    if stochastic is None or stochastic.estimator == row.estimator:
        return row
    return replace(row, estimator=stochastic.estimator, reason=f"{row.reason}; {stochastic.reason}")
