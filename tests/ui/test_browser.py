"""The page in a browser, as wide as a telephone and as a desk: it fits, it answers, and it asks nobody else.

Needs Gradio, Playwright and a Chromium: `make test-ui` sets up the first two.
"""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from foveate import samples
from foveate.engines import hf
from foveate.ui import planning

pytest.importorskip("gradio", reason="needs gradio: make test-ui")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: make test-ui")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium or google-chrome on the PATH")

SAMPLE = samples.load()[4]
TABS = ("Look", "Trade-off", "Plan")
PATIENCE = 120_000
"""Milliseconds, for a machine that is busy."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from foveate.ui import page

    gradio = page.load_gradio()
    built = page.build(hf.load(), tmp_path_factory.mktemp("page"))
    built.queue(default_concurrency_limit=1)
    for _ in range(5):  # Gradio gives its own server three seconds, which a busy machine may not have
        with suppress(ValueError):
            _, local, _ = built.launch(server_name="127.0.0.1", prevent_thread_lock=True, **page.options(gradio))
            break
    yield local
    built.close(verbose=False)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as p:
        found = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(params=[(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")], ids=str)
def page(request: pytest.FixtureRequest, browser: Any, address: str) -> Iterator[Any]:
    width, scheme = request.param
    view = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    view.set_default_timeout(PATIENCE)
    asked: list[str] = []
    view.on("request", lambda r: asked.append(r.url))
    view.goto(address)
    view.get_by_role("button", name="Ask").wait_for()
    yield view
    view.close()
    strange = [u for u in asked if urlsplit(u).scheme in ("http", "https") and urlsplit(u).hostname != "127.0.0.1"]
    assert not strange, "the page asks others"


def fits(view: Any) -> None:
    """Nothing sticks out to the right."""
    wide = view.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert wide[0] <= wide[1], wide


def test_every_tab_fits(page: Any) -> None:
    for tab in TABS:
        page.get_by_role("tab", name=tab, exact=True).click()
        fits(page)


@pytest.mark.parametrize("page", [(390, "light")], ids=str, indirect=True)
def test_a_picture_is_asked_about(page: Any) -> None:
    page.locator("input[type=file]").first.set_input_files(str(SAMPLE.image))
    page.get_by_label("Question").fill(SAMPLE.question)
    page.get_by_role("button", name="Ask").click()
    page.get_by_role("cell", name="all tokens", exact=True).wait_for()
    page.get_by_role("cell", name="divprune", exact=True).wait_for()
    page.wait_for_function("[...document.images].filter(i => i.naturalHeight > 100).length > 1")
    assert page.get_by_role("cell", name=SAMPLE.answer, exact=True).count()
    assert not page.get_by_role("button", name="Share").count(), "a picture could be sent away"
    fits(page)


@pytest.mark.parametrize("page", [(390, "light")], ids=str, indirect=True)
def test_charts_are_drawn(page: Any, tmp_path: Path) -> None:
    row = {"task": "t", "way": "full", "method": "full", "keep": "1.0", "accuracy": 0.5, "interval_95": [0.4, 0.6]}
    relative = [{"way": "full", "method": "full", "keep": "1.0", "budget": 8.0, "mean_score": 0.5}]
    quality = {"tasks": [{"name": "t"}], "rows": [row], "relative": relative}
    (tmp_path / "results.json").write_text(json.dumps({"foveate_bench": 1, "quality": quality, "cost": []}))
    page.get_by_role("tab", name="Trade-off").click()
    page.get_by_label("Folder of a finished foveate bench").fill(str(tmp_path))
    page.get_by_role("button", name="Draw").click()
    page.frame_locator("iframe[title=charts]").locator("svg").first.wait_for()
    fits(page)


@pytest.mark.parametrize("page", [(390, "light")], ids=str, indirect=True)
def test_a_plan_is_found_or_the_reason_said(page: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(engine: Any, examples: str, loss: float, trials: int, folder: Path, watch: Any, step: Any) -> Any:
        if examples != "mine.jsonl":
            return real(engine, examples, loss, trials, folder, watch, step)
        step(), watch(0.01, 0.3)
        (folder / "plan.json").write_text("{}")
        return f"{loss:.2f} within {trials}", folder / "plan.json"

    real = planning.find
    monkeypatch.setattr(planning, "find", find)
    page.get_by_role("tab", name="Plan").click()
    words = page.get_by_label(re.compile("Examples on this machine"))
    words.fill(str(tmp_path / "none.jsonl"))
    page.get_by_role("button", name="Find a plan").click()
    page.get_by_text(re.compile("no data at")).first.wait_for()
    words.fill("mine.jsonl")
    page.get_by_role("button", name="Find a plan").click()
    page.wait_for_function("[...document.querySelectorAll('textarea')].some(t => t.value == '0.01 within 40')")
    page.locator("a[href*='plan.json']").first.wait_for(state="attached")
    fits(page)
