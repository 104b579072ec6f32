"""The built documentation works offline, and its search answers the questions of newcomers."""

import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest

DOCS = Path(__file__).parent.parent / "docs"
SITE = DOCS / "_build" / "html"
QUESTIONS = {
    "install": "index",
    "my table": "quickstart",
    "out-of-distribution": "selective_prediction",
    "time series": "series",
    "early stopping": "quickstart",
    "which method": "choosing",
    "my loss does not fall": "diagnostics",
    "what is epistemic": "uncertainty",
    "export": "semantics",
    "contribute": "contributing",
}
PEER_NAMES = ("BNN_VI_ELBO_Regression", "MVERegression", "DKLRegression", "dnn_to_bnn", "vi_elbo_step")
CHROMIUM = shutil.which("chromium")

built = pytest.mark.skipif(not SITE.exists(), reason="`make docs` builds the pages")


def index_entries() -> dict[str, list[str]]:
    """Pages by the main entries of their index directives, which search ranks above everything else."""
    entries: dict[str, list[str]] = {}
    for path in DOCS.rglob("*.md"):
        for line in re.findall(r"^```\{index\} (.*)$", path.read_text(), flags=re.MULTILINE):
            for entry in line.split(", "):
                assert entry.startswith("! "), f"{path.name}: {entry} is no main entry"
                entries.setdefault(entry.removeprefix("! "), []).append(
                    path.relative_to(DOCS).with_suffix("").as_posix()
                )
    return entries


@pytest.mark.parametrize("question", QUESTIONS)
def test_question_of_a_newcomer_is_the_entry_of_one_page(question: str) -> None:
    assert index_entries()[question] == [QUESTIONS[question]]


def test_no_two_pages_have_the_same_index_entry() -> None:
    assert {entry: pages for entry, pages in index_entries().items() if len(pages) > 1} == {}


@built
def test_pages_load_nothing_from_elsewhere() -> None:
    loading = re.compile(
        r"""<(?:script|img|iframe|source)[^>]*\ssrc=["']?(?:https?:)?//|<link[^>]*rel=["']stylesheet["'][^>]*href=["']?(?:https?:)?//"""
    )
    pages = [page for page in SITE.rglob("*.html") if "_modules" not in page.parts]
    assert len(pages) > 50
    assert [page.name for page in pages if loading.search(page.read_text())] == []
    styles = [
        path
        for path in (SITE / "_static").rglob("*.css")
        if "url(http" in path.read_text() or "@import" in path.read_text()
    ]
    assert styles == []


@built
def test_formulas_are_mathml() -> None:
    page = (SITE / "theory.html").read_text()
    assert page.count("<math") > 100
    assert r"\frac" not in page


@built
@pytest.mark.parametrize("name", PEER_NAMES)
def test_names_of_other_libraries_are_in_the_search_index(name: str) -> None:
    snowballstemmer = pytest.importorskip("snowballstemmer")  # of Sphinx
    assert name in (SITE / "coming_from.html").read_text()
    word = snowballstemmer.stemmer("english").stemWord(name.lower())
    assert f'"{word}":' in (SITE / "searchindex.js").read_text()


def first_hit(question: str, profile: Path) -> str:
    """Address of the first result of the built search page, in a browser without a network."""
    command = [
        str(CHROMIUM),
        *("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--virtual-time-budget=4000"),
        *("--allow-file-access-from-files", "--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom"),
        f"{(SITE / 'search.html').as_uri()}?q={quote(question)}",
    ]
    page = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r'<li class="kind-\w+"[^>]*><a href="([^"?#]*)', page)
    return found[1].removesuffix(".html") if found else ""


@built
@pytest.mark.thorough
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("question", QUESTIONS)
def test_first_hit_in_a_browser(question: str, tmp_path: Path) -> None:
    assert first_hit(question, tmp_path) == QUESTIONS[question]
