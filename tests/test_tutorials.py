"""Every tutorial runs in a short mode, and its page is made from its present text."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SPECIFICATION = importlib.util.spec_from_file_location("docs_tutorials", ROOT / "docs" / "tutorials.py")
docs = importlib.util.module_from_spec(SPECIFICATION)
sys.modules[SPECIFICATION.name] = docs
SPECIFICATION.loader.exec_module(docs)

TUTORIALS = docs.read_all()
BY_DEFAULT = {
    "bayesian_optimization", "calibration", "five_methods", "function_space",
    "mean_field_vi", "serving",
}  # fmt: skip
each_tutorial = pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda tutorial: tutorial.name)


@pytest.mark.parametrize(
    "tutorial",
    [pytest.param(each, marks=[] if each.name in BY_DEFAULT else pytest.mark.thorough) for each in TUTORIALS],
    ids=lambda tutorial: tutorial.name,
)
@pytest.mark.filterwarnings("ignore")
def test_tutorial_runs(tutorial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (docs.QUIET | docs.SHORT | {"PL_GLOBAL_SEED": "0", "PL_SEED_WORKERS": "0"}).items():
        monkeypatch.setenv(name, value)
    outputs = docs.run(tutorial, tmp_path)
    assert "```text" in "".join(outputs)
    assert f"{tutorial.header['thumbnail']}.png" in {figure.name for figure in tmp_path.glob("*.png")}
    assert 1 <= len(list(tmp_path.glob("*.png"))) <= 6


@pytest.mark.thorough
def test_tutorial_runs_as_a_script(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "tutorials" / "heat2d.py"]
    environment = os.environ | docs.SHORT | {"PYTHONPATH": str(ROOT)}
    finished = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "plates.png").stat().st_size > 10_000


@each_tutorial
def test_page_has_the_text_of_the_tutorial(tutorial) -> None:
    code, outputs, footer = docs.written(tutorial)
    assert docs.same(code, tutorial.code), f"the code has changed: python docs/tutorials.py {tutorial.name}"
    current = docs.page(tutorial, outputs, footer)
    assert tutorial.page.read_text() == current, "the text has changed: python docs/tutorials.py"


@each_tutorial
def test_figures_are_few_and_small(tutorial) -> None:
    page = tutorial.page.read_text()
    figures = sorted((docs.PAGES / "images").glob(f"{tutorial.name}_*.png"))
    assert 1 <= len(figures) <= 6
    for figure in figures:
        assert f"(images/{figure.name})" in page, f"{figure.name} is on no page"
        assert figure.stat().st_size < 60_000, figure.name


def test_gallery_shows_all_tutorials() -> None:
    gallery = (docs.PAGES / "index.md").read_text()
    assert gallery == docs.gallery(TUTORIALS), "run python docs/tutorials.py"
    assert {page.stem for page in docs.PAGES.glob("*.md")} == {"index"} | {each.name for each in TUTORIALS}


def test_text_of_a_page_is_written_anew_and_its_outputs_are_kept(tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    head = "# ---\n# section: First steps\n# order: 1\n# thumbnail: line\n# ---\n\n"
    text = head + "# %% [markdown]\n# # Title\n#\n# One sentence. Another.\n\n# %%\nx = 2\nprint(x + 1)\n"
    text += "\n# %%\ny = x\n\n# %%\nfrom matplotlib.figure import Figure\n\nFigure().savefig('line.png')\n"
    script.write_text(text)
    tutorial = docs.read(script)
    assert (tutorial.title, tutorial.summary) == ("Title", "One sentence.")
    outputs = docs.run(tutorial, tmp_path)
    assert outputs == ["\n```text\n3\n```\n", "", "\n![line](images/example_line.png)\n"]
    page = docs.page(tutorial, outputs, "the end")
    assert docs.CODE.findall(page) == list(zip(tutorial.code, outputs, strict=True))
    script.write_text(text.replace("Another.", "A third."))
    assert docs.page(docs.read(script), outputs, "the end") == page.replace("Another.", "A third.")


def test_pages_run_again_when_their_code_does_something_else() -> None:
    code = ["x = 2\nprint(x + 1)", "y = x"]
    assert docs.same(code, ["x = 2  # two\nprint(\n    x + 1,\n)", "y = x"])
    assert not docs.same(code, ["x = 2\nprint(x + 2)", "y = x"])
    assert not docs.same(code, code[:1])


def test_errors_name_the_line_of_the_script(tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text("# ---\n# order: 1\n# ---\n\n# %% [markdown]\n# # Title\n\n# %%\nx = 1\n\n# %%\nx / 0\n")
    with pytest.raises(ZeroDivisionError) as raised:
        docs.run(docs.read(script), tmp_path)
    assert (Path(raised.traceback[-1].path), raised.traceback[-1].lineno + 1) == (Path("example.py"), 12)


def test_long_lines_of_outputs_are_broken_and_tables_are_not() -> None:
    sentence = "- " + "word " * 30 + "end"
    folded = docs.fold(sentence)
    assert max(map(len, folded.splitlines())) <= 90
    assert folded.replace("\n  ", " ") == sentence
    row = "name  " * 20 + "end"
    assert docs.fold(row) == row
