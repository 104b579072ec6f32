"""Runs the tutorials and writes their pages, with outputs and figures, and the gallery.

python docs/tutorials.py                # runs the tutorials whose code has changed
python docs/tutorials.py heat2d waves   # runs these in any case
python docs/tutorials.py --all          # runs all, about twenty minutes
python docs/tutorials.py --short heat2d # tries it in a few seconds and writes nothing

A tutorial is one script in `tutorials/`, in the percent format of jupytext, with a header that names its section in the
gallery, its place there, and the figure that is its thumbnail. It prints its results and saves its figures into the
current folder. A page that has the code of the script, up to layout and comments, keeps its outputs;
its text is always written anew.
"""

import ast
import io
import logging
import os
import re
import sys
import tempfile
import textwrap
import time
import traceback
import warnings
from contextlib import chdir, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import lightning  # noqa: F401  (sets the levels of its loggers, which `main` changes)
import matplotlib
from PIL import Image

ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "tutorials"
PAGES = ROOT / "docs" / "tutorials"
QUIET = {"PL_TRAINER_ENABLE_PROGRESS_BAR": "False", "PL_TRAINER_ENABLE_MODEL_SUMMARY": "False"}
SHORT = {
    "PL_TRAINER_MAX_STEPS": "2",
    "PL_TRAINER_LIMIT_TRAIN_BATCHES": "1",
    "PL_TRAINER_LIMIT_VAL_BATCHES": "1",
    "PL_TRAINER_LIMIT_TEST_BATCHES": "1",
}
CODE = re.compile(r"```python\n(.*?)\n```\n((?:\n```text\n.*?\n```\n|\n!\[[^\n]*\n)*)", re.DOTALL)
FOOTER = "Download {{download}}`{name}.py <../../tutorials/{name}.py>`"
INTRODUCTION = """\
# Tutorials

Each tutorial is a script that runs as it is (`python tutorials/NAME.py`), writes its figures into the current folder,
and opens as a notebook with jupytext. Outputs and figures on the pages are those of one run on a CPU.
"""


@dataclass
class Tutorial:
    """A script, in cells.

    Attributes:
        name: name of the file, without suffix.
        header: values of the header: `section`, `order`, `thumbnail`.
        cells: the kind of each cell, "text" or "code", its lines, and the number of lines in front of it.
    """

    name: str
    header: dict[str, str]
    cells: list[tuple[str, str, int]]

    @property
    def title(self) -> str:
        """The first heading."""
        return self.cells[0][1].splitlines()[0].removeprefix("# ")

    @property
    def summary(self) -> str:
        """The first sentence below the title."""
        paragraph = self.cells[0][1].split("\n\n")[1].replace("\n", " ")
        sentence = re.split(r"(?<=[.?])\s", paragraph, maxsplit=1)[0]
        return f"{sentence[:-1]}." if sentence.endswith(":") else sentence

    @property
    def code(self) -> list[str]:
        """The cells of code."""
        return [text for kind, text, _ in self.cells if kind == "code"]

    @property
    def page(self) -> Path:
        """The page that is made from the script."""
        return PAGES / f"{self.name}.md"


def read(path: Path) -> Tutorial:
    """Returns the tutorial in a script."""
    head, *cells = re.split(r"^# %%", path.read_text(), flags=re.MULTILINE)
    header = dict(re.findall(r"^# (\w+): (.*)$", head, flags=re.MULTILINE))
    parts, line = [], head.count("\n")
    for cell in cells:
        marker, _, text = cell.partition("\n")
        if marker.strip() == "[markdown]":
            parts.append(("text", re.sub(r"^# ?", "", text, flags=re.MULTILINE).strip(), line + 1))
        else:
            parts.append(("code", text.strip(), line + 1))
        line += cell.count("\n")
    return Tutorial(path.stem, header, parts)


def read_all() -> list[Tutorial]:
    """Returns all tutorials, in the order of the gallery."""
    return sorted(map(read, SCRIPTS.glob("*.py")), key=lambda tutorial: float(tutorial.header["order"]))


def fold(line: str) -> str:
    """Breaks a line that is too long for a page, unless it is a row of a table."""
    if len(line) <= 90 or "  " in line.strip():
        return line
    return "\n".join(textwrap.wrap(line, 90, subsequent_indent="  ", break_on_hyphens=False))


def run(tutorial: Tutorial, folder: Path) -> list[str]:
    """Runs a tutorial in a folder, where it saves its figures.

    Returns:
        what follows each cell of code on the page: printed text and figures.
    """
    module = ModuleType(f"tutorial_{tutorial.name}")
    sys.modules[module.__name__] = module  # where pickle looks for the classes of a tutorial
    outputs, seen = [], set(folder.glob("*.png"))
    try:
        with chdir(folder), matplotlib.rc_context({"savefig.dpi": 80}):
            for kind, code, line in tutorial.cells:
                if kind == "text":
                    continue
                printed = io.StringIO()
                with redirect_stdout(printed):
                    exec(compile("\n" * line + code, f"{tutorial.name}.py", "exec"), vars(module))
                lines = [fold(line.rstrip()) for line in printed.getvalue().strip("\n").splitlines()]
                text = "\n".join(lines)
                figures = sorted(set(folder.glob("*.png")) - seen, key=lambda figure: figure.stat().st_mtime_ns)
                seen.update(figures)
                output = f"\n```text\n{text}\n```\n" if text else ""
                for figure in figures:
                    name = figure.stem.replace("_", " ")
                    output += f"\n![{name}](images/{tutorial.name}_{figure.name})\n"
                outputs.append(output)
    finally:
        del sys.modules[module.__name__]
    return outputs


def page(tutorial: Tutorial, outputs: list[str], footer: str) -> str:
    """Returns the page of a tutorial."""
    following = iter(outputs)
    parts = [f"<!-- Written by docs/tutorials.py from tutorials/{tutorial.name}.py: change that file. -->\n"]
    for kind, text, _ in tutorial.cells:
        parts.append(f"```python\n{text}\n```\n{next(following)}" if kind == "code" else f"{text}\n")
    return "\n".join([*parts, f"{footer}\n"])


def written(tutorial: Tutorial) -> tuple[list[str], list[str], str]:
    """Returns the code, the outputs and the last line of the page that there is."""
    text = tutorial.page.read_text() if tutorial.page.exists() else ""
    pairs = CODE.findall(text)
    return [code for code, _ in pairs], [output for _, output in pairs], text.rstrip().rpartition("\n")[2]


def same(code: list[str], other: list[str]) -> bool:
    """Returns True if the cells do the same, whatever their layout and comments."""
    return [ast.dump(ast.parse(cell)) for cell in code] == [ast.dump(ast.parse(cell)) for cell in other]


def gallery(tutorials: list[Tutorial]) -> str:
    """Returns the page that links to all tutorials."""
    parts, section = [INTRODUCTION], None
    for tutorial in tutorials:
        if tutorial.header["section"] != section:
            if section is not None:
                parts.append("::::\n")
            section = tutorial.header["section"]
            parts.append(f"## {section}\n\n::::{{container}} gallery\n")
        thumbnail = f"images/{tutorial.name}_{tutorial.header['thumbnail']}.png"
        parts.append(
            f":::{{container}} card\n[![{tutorial.title}]({thumbnail})]({tutorial.name}.md)\n\n"
            f"[**{tutorial.title}**]({tutorial.name}.md)\n\n{tutorial.summary}\n:::\n"
        )
    names = "\n".join(tutorial.name for tutorial in tutorials)
    return "\n".join([*parts, "::::\n", f"```{{toctree}}\n:hidden:\n\n{names}\n```\n"])


def render(tutorial: Tutorial) -> None:
    """Runs a tutorial in full, and writes its page and its figures."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        outputs = run(tutorial, Path(folder))
        seconds = time.process_time() - start
        for old in (PAGES / "images").glob(f"{tutorial.name}_*.png"):
            if old.name in "".join(written(tutorial)[1]):
                old.unlink()
        for figure in Path(folder).glob("*.png"):
            image = Image.open(figure).convert("RGB").quantize(128, dither=Image.Dither.NONE)
            image.save(PAGES / "images" / f"{tutorial.name}_{figure.name}", optimize=True)
    footer = f"{FOOTER.format(name=tutorial.name)}. It took {seconds:.0f} seconds of CPU time."
    tutorial.page.write_text(page(tutorial, outputs, footer))


def main(arguments: list[str]) -> None:
    """Runs the tutorials that the arguments name, or those that have changed."""
    names = [argument for argument in arguments if not argument.startswith("--")]
    os.environ |= QUIET | (SHORT if "--short" in arguments else {})
    warnings.filterwarnings("ignore")
    for name in ("pytorch", "fabric"):
        logging.getLogger(f"lightning.{name}").setLevel(logging.ERROR)
    (PAGES / "images").mkdir(parents=True, exist_ok=True)
    tutorials, failed = read_all(), []
    for tutorial in tutorials:
        code, outputs, footer = written(tutorial)
        try:
            if "--short" in arguments:
                if tutorial.name in names or not names:
                    with tempfile.TemporaryDirectory() as folder:
                        run(tutorial, Path(folder))
            elif tutorial.name in names or "--all" in arguments or (not names and not same(code, tutorial.code)):
                render(tutorial)
                print(tutorial.name, flush=True)  # noqa: T201
            elif same(code, tutorial.code):
                tutorial.page.write_text(page(tutorial, outputs, footer))
        except Exception:
            traceback.print_exc()
            failed.append(tutorial.name)
    if "--short" not in arguments:
        (PAGES / "index.md").write_text(gallery([tutorial for tutorial in tutorials if tutorial.page.exists()]))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main(sys.argv[1:])
