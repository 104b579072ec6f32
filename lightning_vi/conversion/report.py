"""Reports on converted networks."""

from dataclasses import dataclass, replace
from html import escape

from torch import nn

from lightning_vi.layers import stochastic_parameters


@dataclass(frozen=True)
class ModuleReport:
    """Conversion result of one module.

    Attributes:
        name: Dotted name of the module, empty for the network itself.
        kind: Class name of the module before conversion.
        num_parameters: Number of weights that the module owns directly.
        num_stochastic: Number of these weights that have a posterior.
        estimator: The gradient estimator, None for a deterministic module.
        reason: Reason for this result.
    """

    name: str
    kind: str
    num_parameters: int
    num_stochastic: int
    estimator: str | None
    reason: str

    @property
    def stochastic(self) -> bool:
        """True if any weight of the module has a posterior."""
        return self.num_stochastic > 0


@dataclass(frozen=True)
class ConversionReport:
    """Conversion results of all modules that own parameters; prints as a table, also in notebooks.

    Attributes:
        modules: One row per module, in the order of the network.
        num_parameters: Number of weights in the network, counting shared weights once.
        num_stochastic: Number of these weights that have a posterior.
    """

    modules: tuple[ModuleReport, ...]
    num_parameters: int
    num_stochastic: int

    def updated(self, network: nn.Module) -> "ConversionReport":
        """Returns a new report with the present estimators of the converted network."""
        return replace(self, modules=tuple(_updated(row, network) for row in self.modules))

    def __str__(self) -> str:
        table = self._table()
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
        return "\n".join(line.rstrip() for line in lines)

    def _repr_html_(self) -> str:
        """The table of a notebook."""
        header, *rows = ([escape(cell) for cell in row] for row in self._table())
        head = "".join(f'<th style="text-align: left">{cell}</th>' for cell in header)
        body = "".join(
            "<tr>" + "".join(f'<td style="text-align: left">{cell}</td>' for cell in row) + "</tr>" for row in rows
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def _table(self) -> list[tuple[str, ...]]:
        """Header, one row per module, and the total."""
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
        return [
            ("module", "kind", "parameters", "stochastic", "estimator", "why"),
            *rows,
            ("total", "", str(self.num_parameters), str(self.num_stochastic), "", ""),
        ]


def _updated(row: ModuleReport, network: nn.Module) -> ModuleReport:
    stochastic = stochastic_parameters(network.get_submodule(row.name))
    if stochastic is None or stochastic.estimator == row.estimator:
        return row
    return replace(row, estimator=stochastic.estimator, reason=f"{row.reason}; {stochastic.reason}")
