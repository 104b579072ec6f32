"""The package and the help of the console script load without PyTorch; the names of the package load at first use."""

import json
import subprocess
import sys
from types import ModuleType

import pytest

import lightning_vi
from lightning_vi import methods

LOADED = """
import json, sys
{code}
print(json.dumps(sorted({{"torch", "lightning", "matplotlib"}} & sys.modules.keys())))
"""
RUN = """
from lightning_vi.cli import main
try:
    main({args})
except SystemExit as stop:
    assert stop.code == {status}
"""


def loaded_after(code: str) -> list[str]:
    """Returns those of the slow dependencies that a new process has loaded after this code."""
    done = subprocess.run([sys.executable, "-c", LOADED.format(code=code)], capture_output=True, text=True, check=True)
    names: list[str] = json.loads(done.stdout.splitlines()[-1])
    return names


@pytest.mark.parametrize(
    ("args", "status"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["demo", "--help"], 0),
        (["init", "--help"], 0),
        (["configs", "--help"], 0),
        (["fitt"], 2),
        (["demo", "--fast"], 2),
        ([], 2),
    ],
)
def test_help_and_usage_errors_do_not_import_torch(args: list[str], status: int) -> None:
    assert loaded_after(RUN.format(args=args, status=status)) == []


@pytest.mark.parametrize("code", ["import lightning_vi", "import lightning_vi.errors", "from lightning_vi import cli"])
def test_importing_the_package_does_not_import_torch(code: str) -> None:
    assert loaded_after(code) == []


def test_a_method_imports_torch_at_first_use() -> None:
    assert "torch" in loaded_after("import lightning_vi\nlightning_vi.MeanFieldVI")


def test_the_package_has_all_names_of_methods() -> None:
    assert lightning_vi.__all__ == methods.__all__
    assert {"MeanFieldVI", "Deterministic", "TemperatureScaling", "NotFittedError"} <= set(lightning_vi.__all__)
    assert set(lightning_vi.__all__) <= set(dir(lightning_vi))


@pytest.mark.parametrize("name", methods.__all__)
def test_a_name_is_that_of_methods(name: str) -> None:
    assert getattr(lightning_vi, name) is getattr(methods, name)


def test_a_star_import_binds_all_names() -> None:
    names: dict[str, object] = {}
    exec("from lightning_vi import *", names)
    assert {name: names[name] for name in methods.__all__} == {name: getattr(methods, name) for name in methods.__all__}


@pytest.mark.parametrize("name", ["methods", "noise"])
def test_a_submodule_is_an_attribute(name: str) -> None:
    code = f"import lightning_vi\nassert lightning_vi.{name}.__name__ == 'lightning_vi.{name}'"
    assert "torch" in loaded_after(code)
    assert isinstance(getattr(lightning_vi, name), ModuleType)


@pytest.mark.parametrize("name", ["MeanFeeldVI", "_private", "__wrapped__", "Trainer"])
def test_an_unknown_name_is_an_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError, match=f"module 'lightning_vi' has no attribute '{name}'"):
        getattr(lightning_vi, name)


def test_an_unknown_name_cannot_be_imported() -> None:
    with pytest.raises(ImportError, match="cannot import name 'MeanFeeldVI' from 'lightning_vi'"):
        exec("from lightning_vi import MeanFeeldVI")
