"""The Sphinx extensions of the documentation."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

from lightning_vi import MeanFieldVI, RankOneVI

EXTENSIONS = Path(__file__).parent.parent / "docs" / "_extensions"


@pytest.fixture
def extension(monkeypatch: pytest.MonkeyPatch):
    for package in ("sphinx", "latex2mathml"):
        pytest.importorskip(package)
    monkeypatch.syspath_prepend(EXTENSIONS)

    def load(name: str) -> ModuleType:
        module = importlib.import_module(name)
        monkeypatch.delitem(sys.modules, name)
        return module

    return load


def test_mean_rank_counts_better_methods_and_shares_ties(extension) -> None:
    ranks = extension("benchmark_ranks")
    rows = [
        "| method | a | b |",
        "|---|---|---|",
        "| `A` | 1.0 (0.1) | 3 |",
        "| `B` | 2 (0.1)* | 3 |",
        "| `C` | 3 | 1 |",
    ]
    table = "\n".join(["# Title", "", *rows, "", "text"])
    assert ranks.read_table(table) == {"A": [1.0, 3.0], "B": [2.0, 3.0], "C": [3.0, 1.0]}
    assert ranks.mean_ranks(ranks.read_table(table)) == {"A": 1.75, "B": 2.25, "C": 2.0}


def test_formulas_have_the_characters_that_browsers_show(extension) -> None:
    mathml = extension("mathml").mathml
    assert "&#x1D4A9;" in mathml(r"w \sim \mathcal N(0, 1)", "inline")
    assert "<mo>&#x0223C;</mo>" in mathml(r"w \sim q", "inline")
    assert "<mtext>E</mtext>" in mathml(r"\mathrm{E}_q[x] + \mathrm E y", "inline")
    assert 'class="brace"' in mathml(r"\underbrace{a + b}_{c}", "block")
    assert "prior_std" in mathml(r"\texttt{prior\_std}", "inline")
    assert mathml(r"a \\ b", "block").count("<mtr>") == 2


def test_passed_on_arguments_are_spelled_out_with_their_class(extension) -> None:
    reference = extension("module_reference")
    lines = list(reference.passed_on(RankOneVI))
    warmup = next(line for line in lines if line.startswith("kl_warmup_epochs (int | None): "))
    assert "Default: ``None``" in warmup or "efault" in warmup
    assert warmup.endswith("(of `VariationalMethod`)")
    assert not any(line.startswith("num_components") for line in lines)
    doc = [
        "Summary.",
        "",
        "Args:",
        "    rank: A number.",
        "    **arguments: The others.",
        "        More.",
        "",
        "Raises:",
    ]
    reference.spell_out(None, "class", "", RankOneVI, None, doc)
    assert doc[2] == "Arguments of the base class: The others. More."
    assert any(line.startswith("    kl_weight") for line in doc)
    assert doc[-1] == "Raises:"


def test_options_of_a_class_are_those_that_it_accepts(extension) -> None:
    reference = extension("module_reference")
    assert reference.is_configurable(MeanFieldVI)
    assert not reference.is_configurable(dict)
    assert reference.default_text(1.0) == " = 1.0"
