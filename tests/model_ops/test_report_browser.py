"""The report in a real browser: pictures show, nothing runs, nothing sticks out."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from model_ops.report import write_report
from schemas.store import Store
from tests.model_ops.contrastive_rooted import build_contrastive_root
from tests.model_ops.rooted import build_root

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
                None)
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
         "--disable-dev-shm-usage", "--window-size=1280,2400")
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
PROBE = """<script>addEventListener("load", () => {
  const all = (query) => [...document.querySelectorAll(query)];
  const seen = {
    title: document.title, width: document.documentElement.scrollWidth, window: innerWidth,
    images: all("img").length, broken: all("img").filter((i) => !i.naturalWidth).length,
    pixels: all("img.pixels").map((i) => getComputedStyle(i).imageRendering)
      .filter((r) => r === "pixelated").length,
    rows: all(".glance .main").length, charts: all("svg.chart polyline").length,
    games: all(".game").length, pairs: all(".pair").length, bars: all("svg.barchart .bar").length,
    outside: all("svg.barchart text").filter((t) => t.getBoundingClientRect().left <
      t.closest("figure").getBoundingClientRect().left).length, scripts: all("script").length,
    clipped: all("h1, h2, .keys dd").filter((e) => e.scrollWidth > e.clientWidth + 1).length,
  };
  document.body.setAttribute("data-seen", JSON.stringify(seen));
});</script>"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report whose first game of every round speaks HTML."""
    store = Store(str(tmp_path_factory.mktemp("browser")))
    build_root(store)
    return Path(write_report(store))


def browse(page: Path, *flags: str) -> str:
    """Open a page headless; the DOM, if it was asked for."""
    assert CHROMIUM
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={page.parent / 'profile'}", *flags,
               page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    return done.stdout


@pytest.fixture(scope="module")
def seen(report: Path) -> dict[str, Any]:
    """What our script sees on the page."""
    return probe(report)


def probe(report: Path) -> dict[str, Any]:
    """What our script sees in a copy whose policy allows scripts: a model's would run there too."""
    copy = report.with_name("probe.html")
    text = POLICY.sub("", report.read_text())
    copy.write_text(text.replace("</body>", f"{PROBE}</body>"))
    found = re.search(r'data-seen="([^"]*)"', browse(copy, "--dump-dom"))
    assert found, "the page did not load"
    measured: dict[str, Any] = json.loads(html.unescape(found[1]))
    return measured


def test_all_pictures_are_decoded_and_small_ones_keep_hard_pixels(seen: dict[str, Any]) -> None:
    assert seen["images"] > 60
    assert seen["broken"] == 0
    assert seen["pixels"] == seen["images"]


def test_the_sections_have_their_rows(seen: dict[str, Any]) -> None:
    assert (seen["rows"], seen["charts"], seen["games"]) == (4, 8, 18)


def test_no_script_of_a_model_runs(seen: dict[str, Any]) -> None:
    assert seen["title"].endswith("vlm-flywheel")
    assert seen["scripts"] == 1


def test_nothing_sticks_out_at_1280_pixels(seen: dict[str, Any]) -> None:
    assert seen["width"] <= seen["window"] == 1280
    assert seen["clipped"] == 0


def test_bars_and_pairs_are_there_and_stay_in_their_cards(tmp_path: Path) -> None:
    """On a page with both methods, whose questions speak HTML."""
    store = Store(str(tmp_path / "root"))
    build_contrastive_root(store, beside_dialog=True)
    seen = probe(Path(write_report(store)))
    assert seen["games"] == 18 and seen["pairs"] > 30 and seen["bars"] == 3 * 20
    assert seen["broken"] == seen["outside"] == seen["clipped"] == 0
    assert seen["title"].endswith("vlm-flywheel") and seen["scripts"] == 1
    assert seen["width"] <= seen["window"] == 1280


def test_the_policy_stops_scripts_even_if_escaping_failed(report: Path) -> None:
    copy = report.with_name("attacked.html")
    copy.write_text(report.read_text().replace(
        "</body>", "<script>document.body.dataset.ran = 'yes'</script></body>"))
    assert "data-ran" not in browse(copy, "--dump-dom")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_looks_like_a_page_in_both_themes(report: Path, dark: bool) -> None:
    """By pixel statistics: the ground is light or dark, and there is ink and colour on it."""
    shot = report.with_name(f"{dark}.png")
    theme = ("--blink-settings=preferredColorScheme=0",) if dark else ()
    browse(report, f"--screenshot={shot}", *theme)
    pixels = np.asarray(Image.open(shot).convert("RGB"), dtype=np.int16)
    brightness = pixels.mean(axis=2)
    assert np.median(brightness) < 60 if dark else np.median(brightness) > 200
    assert brightness.std() > 10
    assert ((pixels.max(axis=2) - pixels.min(axis=2)) > 60).mean() > 0.002
