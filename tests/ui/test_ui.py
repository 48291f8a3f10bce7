"""The page shows what the engine says, loads nothing from elsewhere, and tells nobody anything."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from foveate import FoveateError, Plan, images, samples
from foveate.engines import hf
from foveate.search import halves
from foveate.tiny import examples as world
from foveate.ui import looking, planning

SAMPLE = samples.load()[4]


@pytest.fixture(scope="module")
def engine() -> hf.Engine:
    return hf.load()


def test_looking_is_asking(engine: hf.Engine) -> None:
    picture = images.load(SAMPLE.image)
    whole, uniform, deep = looking.look(engine, picture, SAMPLE.question, ["uniform", "fastv"], 0.25, 4)
    assert whole.row[:3] == ("all tokens", SAMPLE.answer, "576.0") and whole.row[4] == "100.0" and whole.picture is None
    answer = hf.ask(engine, [picture], SAMPLE.question, looking.plan(engine, "uniform", 0.25), 4)
    assert uniform.row[:3] == ("uniform", answer.text, "144.0")
    assert isinstance(uniform.picture, Image.Image) and float(uniform.row[4]) < 30
    assert deep.row[2] == f"{(2 * 576 + 8 * 144) / 10:.1f}" and float(uniform.row[4]) < float(deep.row[4]) < 100


def test_pictures_are_stacked_and_none_is_cut() -> None:
    parts = [Image.new("RGB", (10, 4), "red"), Image.new("RGB", (6, 8), "blue")]
    page = looking.stacked(parts)
    assert page is not None and page.size == (10, 12)
    assert [page.getpixel(at) for at in ((9, 3), (5, 11), (9, 11))] == [(255, 0, 0), (0, 0, 255), (255, 255, 255)]
    assert looking.stacked([]) is None


def test_what_a_model_says_is_no_markup() -> None:
    made = looking.table([("uniform", "<b>2</b> & 3", "144.0", "12", "25.0")])
    assert "&lt;b&gt;2&lt;/b&gt; &amp; 3" in made and "<b>" not in made and made.count("<td>") == len(looking.COLUMNS)


def test_a_method_that_cannot_says_why_in_its_row(engine: hf.Engine) -> None:
    found = list(looking.look(engine, images.load(SAMPLE.image), SAMPLE.question, ["psigmoid", "uniform"], 0.02, 2))
    assert "stays above" in found[1].row[1] and found[1].picture is None
    assert found[2].row[0] == "uniform" and found[2].picture is not None


@pytest.mark.parametrize(
    ("picture", "question", "methods", "says"),
    [(None, "what?", ["uniform"], "drop one in"), ("x", " ", ["uniform"], "ask something"), ("x", "?", [], "tick one")],
)
def test_what_is_missing_is_named(
    engine: hf.Engine, picture: Any, question: str, methods: list[str], says: str
) -> None:
    with pytest.raises(FoveateError, match=says):
        next(looking.look(engine, picture, question, methods, 0.25))


def test_charts_of_a_benchmark_need_nothing_else(tmp_path: Path) -> None:
    with pytest.raises(FoveateError, match="there is no folder"):
        planning.tradeoff(str(tmp_path / "none"))
    row = {"task": "t", "way": "full", "method": "full", "keep": "1.0", "accuracy": 0.5, "interval_95": [0.4, 0.6]}
    way = row | {"way": "uniform@0.5", "method": "uniform", "keep": "0.5"}
    relative = [{"way": r["way"], "method": r["method"], "keep": r["keep"], "budget": b, "mean_score": 0.5}
                for r, b in ((row, 8.0), (way, 4.0))]  # fmt: skip
    quality = {"tasks": [{"name": "t"}], "rows": [row, way], "relative": relative}
    (tmp_path / "results.json").write_text(json.dumps({"foveate_bench": 1, "quality": quality, "cost": []}))
    drawn = planning.tradeoff(str(tmp_path))
    assert "<svg" in drawn and "uniform" in drawn and "http" not in drawn and "<script" not in drawn


def test_a_plan_comes_with_its_promise(engine: hf.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(halves, "FEWEST", 5)
    world.write(tmp_path / "data", range(10), "train", 1)
    seen: list[float] = []
    steps: list[int] = []
    watch = lambda lost, cost: seen.append(cost)  # noqa: E731
    told, file = planning.find(engine, f" {tmp_path / 'data'}\n", 0.9, 2, tmp_path, watch, lambda: steps.append(1))
    assert len(seen) >= 2 and 0 < min(seen) <= 1 and len(steps) > 2
    plan = Plan.from_json(file.read_text())
    assert plan.made is not None and plan.made["asked"]["max_loss"] == 0.9 and plan.made["claim"] in told
    assert f"{plan.made['visual_flops']:.1%}" in told
    assert told.startswith("Not proven") != plan.made["asked"]["proven"]


@pytest.mark.parametrize(
    ("words", "loss", "says"),
    [(" ", 0.5, "name a JSONL file"), ("{}/none", 0.5, "no data at"), ("{}/data", 0.01, "cannot resolve a loss")],
)
def test_what_cannot_be_searched_is_said_before_the_model_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, loss: float, says: str
) -> None:
    monkeypatch.setattr(halves, "FEWEST", 5)
    world.write(tmp_path / "data", range(10), "train", 1)
    with pytest.raises(FoveateError, match=says):
        planning.find(None, words.format(tmp_path), loss, 2, tmp_path)  # type: ignore[arg-type]


def test_the_page_is_local_and_silent(engine: hf.Engine, tmp_path: Path) -> None:
    gradio = pytest.importorskip("gradio")
    from foveate.ui import page

    built = page.build(engine, tmp_path)
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False" and not built.analytics_enabled
    options = page.options(gradio)
    # A drawing inside the style names its language by an address, which nobody asks.
    fetched = re.findall(r"url\(.{0,2}(?:https?:)?//|@import", options["theme"]._get_theme_css())
    assert options["share"] is False and not fetched
    assert {"Look", "Trade-off", "Plan"} <= {b.label for b in built.blocks.values() if getattr(b, "label", None)}
