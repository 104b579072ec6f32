"""A report in a real browser: layout on a phone, dark and light, and no request to anywhere."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import matplotlib.image as mpl_image
import numpy as np
import pytest
from report.pages import regressor, tabular, written

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PHONE = 360
MEASURE = """<script>addEventListener("load", () => { const root = document.documentElement; parent.postMessage(
  [innerWidth, root.scrollWidth, [...document.images].map(each => each.naturalWidth),
  getComputedStyle(document.body).backgroundColor], "*"); });</script></body>"""
CONTROL = "http://control.invalid/image.png"
"""Address that the page around the frame asks for, so that the test sees what a request looks like."""
# Windows of Chromium are at least 500 pixels wide, frames are not.
FRAME = f"""<img src="{CONTROL}"><script>addEventListener("message", message => {{ document.body.innerHTML =
  "measured " + JSON.stringify(message.data); }});</script><body><iframe src="page.html" width="360" height="800"
  style="border: 0"></iframe></body>"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")


def browse(folder: Path, *options: str) -> str:
    assert CHROMIUM is not None
    always = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={folder / 'profile'}",
    )
    done = subprocess.run([CHROMIUM, *always, *options], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_phone_shows_the_page_without_the_network(drawn: None, tmp_path: Path) -> None:
    data = tabular()
    page = written(regressor(data), data, tmp_path)
    (tmp_path / "page.html").write_text(page.source.replace("</body>", MEASURE))
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME)
    log = tmp_path / "net.json"
    printed = browse(tmp_path, "--dump-dom", "--virtual-time-budget=20000", f"--log-net-log={log}", frame.as_uri())
    found = re.search(r"measured (\[.*\])", printed)
    assert found is not None
    inner, width, images, color = json.loads(found[1])
    assert inner == PHONE
    assert width <= PHONE
    assert len(images) > 5
    assert min(images) > 0
    assert color == "rgb(255, 255, 255)"
    assert requests(log) == {CONTROL}


def requests(log: Path) -> set[str]:
    """Addresses on the network that a page has asked for; those that Chromium itself asks for have no origin."""
    text = log.read_text()
    events: list[Any] = json.loads(text if text.rstrip().endswith("}") else f"{text.rstrip().rstrip(',')}]}}")["events"]
    asked = [event["params"] for event in events if {"url", "initiator"} <= event.get("params", {}).keys()]
    return {str(each["url"]) for each in asked if each["initiator"] != "not an origin" and "http" in each["url"][:5]}


def test_a_dark_screen_has_a_dark_page(drawn: None, tmp_path: Path) -> None:
    data = tabular()
    page = written(regressor(data), data, tmp_path)
    (tmp_path / "page.html").write_text(page.source)
    shades = {}
    for name, options in {"light": (), "dark": ("--blink-settings=preferredColorScheme=0",)}.items():
        picture = tmp_path / f"{name}.png"
        address = (tmp_path / "page.html").as_uri()
        browse(tmp_path, f"--screenshot={picture}", "--window-size=800,4000", "--hide-scrollbars", *options, address)
        shades[name] = mpl_image.imread(picture)[..., :3].mean(2)
    assert np.median(shades["light"]) > 0.95
    assert np.median(shades["dark"]) < 0.15
    assert (shades["dark"] > 0.9).mean() < 0.02
