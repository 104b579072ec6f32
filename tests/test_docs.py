"""The Python code in the README and the documentation runs."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = (".", "methods", "reference")
PAGES = [ROOT / "README.md", *(page for folder in FOLDERS for page in sorted((ROOT / "docs" / folder).glob("*.md")))]

LONG = ("selective_prediction.md", "series.md", "shift.md")
"""Pages that fit many networks, for `make test-all`."""


def python_blocks(page: Path) -> str:
    return "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.name, marks=pytest.mark.thorough if page.name in LONG else ())
        for page in PAGES
        if python_blocks(page)
    ],
)
def test_documented_code_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = PREPARATION.get(page.name, "") + python_blocks(page)
    code = code.replace("max_epochs=150", "max_epochs=2, enable_progress_bar=False").replace(
        "burnin_epochs=20", "burnin_epochs=1"
    )
    module = ModuleType(f"page_{page.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # where pickle looks for the classes of a page
    exec(compile(code, str(page), "exec"), vars(module))


PREPARATION = {
    "semantics.md": """
import torch
from lightning_vi import MeanFieldVI
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import Gaussian
method, x = MeanFieldVI(MLP(2, [8], 1), Gaussian()), torch.randn(4, 2)
batches, total_steps, num_data = [(x, torch.zeros(4, 1))] * 2, 2, 4
""",
    "ivon.md": """
import torch
network, loss_function, num_data = torch.nn.Linear(2, 1), torch.nn.functional.mse_loss, 100
batches = [(torch.ones(4, 2), torch.zeros(4, 1))] * 2
""",
    "methods.md": """
from torch import nn
from lightning_vi import MeanFieldVI
from lightning_vi.likelihoods import Gaussian
from lightning_vi.priors import GaussianPrior, LaplacePrior
backbone = nn.Sequential()
backbone.add_module("encoder", nn.Linear(2, 3))
backbone.add_module("head", nn.Linear(3, 1))
likelihood = Gaussian()
""",
    "conversion.md": """
import torch
from torch import nn
from collections import OrderedDict
from lightning_vi import MeanFieldVI
from lightning_vi.likelihoods import Gaussian
encoder = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 4))
backbone = nn.Sequential(OrderedDict(encoder=encoder, head=nn.Linear(4, 1)))
likelihood = Gaussian()
""",
}
