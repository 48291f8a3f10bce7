"""A benchmark folder from request to report: taken up again, compared, and read by a person."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from bench_prompts import noise
from foveate import FoveateError
from foveate.bench import asking, cost, environment, page, run, session, tasks
from foveate.bench.asking import mask, plain
from foveate.bench.compare import compare
from foveate.bench.log import Log
from foveate.bench.ways import Way
from foveate.data import Example
from foveate.methods import METHODS
from foveate.selection import Block


@pytest.fixture(scope="module")
def request_(ways: list[Way], tmp_path_factory: pytest.TempPathFactory) -> session.Request:
    out = tmp_path_factory.mktemp("bench") / "out"
    return session.Request("tiny", tasks.load("tiny", 6), ways, out, batch_sizes=(1,), lengths=(2,), repeats=2, batch=3)


@pytest.fixture(scope="module")
def results(request_: session.Request) -> dict[str, Any]:
    return bench(request_)


def bench(request: session.Request) -> dict[str, Any]:
    return session.bench(request, lambda *_: None)


def test_the_file_holds_what_was_returned(request_: session.Request, results: dict[str, Any]) -> None:
    assert json.loads((request_.out / run.RESULTS).read_text()) == json.loads(json.dumps(results))
    assert len(results["quality"]["rows"]) == 4
    assert len(results["cost"]) == 1
    samples = results["samples"]["tiny"]
    assert len(samples["ids"]) == len(samples["ways"]["full"]["answers"]) == 6
    full = next(r for r in results["quality"]["rows"] if r["way"] == "full")
    assert full["accuracy"] == sum(samples["ways"]["full"]["scores"]) / 6
    assert results["environment"]["versions"]["torch"]


def test_quality_is_seen_as_it_grows_and_is_written_before_the_cost_pass(
    request_: session.Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_LOOK", 0.0)
    fresh = replace(request_, out=tmp_path / "fresh")
    looks: list[dict[str, Any]] = []

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(cost, "measure", stopped)
        with pytest.raises(KeyboardInterrupt):
            session.bench(fresh, lambda *_: None, looks.append)
    asked = [[r["n"] for r in q["rows"]] for q in looks]
    assert asked[-1] == [6] * 4 and len(asked) > 4 and asked == sorted(asked)
    written = json.loads((fresh.out / run.RESULTS).read_text())
    assert written["quality"] == json.loads(json.dumps(looks[-1])) and written["cost"] == []
    assert (fresh.out / run.PAGE).read_text().startswith("<!doctype html>")
    assert len(session.bench(fresh, lambda *_: None)["cost"]) == 1


def test_done_is_done(request_: session.Request, results: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr(asking, "answer_prompt", never)
    monkeypatch.setattr(cost, "measure", never)
    again = bench(request_)
    assert again | {"finished": None} == results | {"finished": None}


def test_the_same_figures_from_a_fresh_start(
    request_: session.Request, results: dict[str, Any], tmp_path: Path
) -> None:
    again = bench(replace(request_, out=tmp_path / "other", batch_sizes=()))
    assert again["quality"] == results["quality"]
    assert again["samples"] == results["samples"]
    assert again["cost"] == []


def test_more_ways_later(request_: session.Request, results: dict[str, Any], tmp_path: Path) -> None:
    few = replace(request_, out=tmp_path, ways=request_.ways[:2], batch_sizes=())
    bench(few)
    assert bench(replace(few, ways=request_.ways))["quality"] == results["quality"]


@pytest.mark.parametrize(
    ("change", "says"), [({"batch": 2}, "batch size = 3, not 2"), ({"seed": 1}, "seed = 0, not 1")]
)
def test_what_decides_answers_must_not_change(
    request_: session.Request, results: dict[str, Any], change: dict[str, Any], says: str
) -> None:
    with pytest.raises(FoveateError, match=says):
        bench(replace(request_, **change))


def test_another_task_of_that_name(request_: session.Request, results: dict[str, Any]) -> None:
    with pytest.raises(FoveateError, match="another tiny"):
        bench(replace(request_, tasks=tasks.load("tiny", 5)))


def test_folders_of_something_else(request_: session.Request, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("")
    with pytest.raises(FoveateError, match="no benchmark"):
        bench(replace(request_, out=tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(FoveateError, match="cannot make the folder"):
        bench(replace(request_, out=tmp_path / "file" / "b"))
    with pytest.raises(FoveateError, match="--baseline is 'tops'"):
        bench(replace(request_, baseline="tops"))


class Page(HTMLParser):
    """What a page loads from elsewhere, and whether its tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.open: list[str] = []
        self.tables = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in ("script", "link", "iframe"):
            self.loads.append(tag)
        self.loads += [v for k in ("src", "href", "xlink:href") if (v := values.get(k)) and v[0] != "#"]
        self.tables += tag == "table"
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_else(request_: session.Request, results: dict[str, Any]) -> None:
    text = (request_.out / run.PAGE).read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    assert all(x.startswith("data:image/webp;base64,") for x in page.loads)
    assert "url(" not in text
    assert "@import" not in text
    # quality, relative, cost, answers
    assert page.tables >= 3
    for word in ("random", "downsample", "fastv", "0.111", "Holm", "95% intervals", "oracle", "not measured on a CPU"):
        assert word in text


def test_words_of_a_task_are_no_markup(request_: session.Request, results: dict[str, Any]) -> None:
    from foveate.bench import page

    evil = "<script>alert(1)</script>"
    bad = json.loads(json.dumps(results))
    bad["samples"]["tiny"]["questions"] = [evil] * 6
    for way in bad["samples"]["tiny"]["ways"].values():
        way["answers"] = [evil] * 6
    bad["quality"]["tasks"][0] |= {"name": evil, "note": evil, "broken": [{"id": evil, "why": evil}]}
    case = page.Case(evil, evil, evil, evil, evil, (page.cases.Panel(evil, evil, True, evil, ""),))
    text = page.build(bad, [case])
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_two_results_side_by_side(request_: session.Request, results: dict[str, Any], tmp_path: Path) -> None:
    other = json.loads(json.dumps(results))
    samples = other["samples"]["tiny"]["ways"]["random@0.111"]
    samples["scores"] = [1.0 - s for s in samples["scores"]]
    other["config"]["seed"] = 7
    other["quality"]["rows"] = other["quality"]["rows"][:3]
    (tmp_path / "b.json").write_text(json.dumps(other))
    found = compare(request_.out, tmp_path / "b.json")
    rows = {r["method"]: r for r in found["rows"]}
    assert rows["full"]["paired"]["difference"] == 0
    assert rows["random"]["paired"]["better"] + rows["random"]["paired"]["worse"] == rows["random"]["questions"] == 6
    assert found["differences"] == ["seed: 0 and 7"]
    assert found["only"] == ["tiny fastv@0.222"]


def test_what_cannot_be_compared(request_: session.Request, results: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(FoveateError, match="no finished benchmark"):
        compare(tmp_path, request_.out)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(FoveateError, match="damaged"):
        compare(request_.out, tmp_path)
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(FoveateError, match="this version"):
        compare(request_.out, tmp_path)
    other = json.loads(json.dumps(results))
    for r in other["quality"]["rows"]:
        r["task"] = "another"
    (tmp_path / "results.json").write_text(json.dumps(other))
    with pytest.raises(FoveateError, match="in common"):
        compare(request_.out, tmp_path)


def test_the_fingerprint_is_the_models(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"a" * 10)
    one = environment.fingerprint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"a" * 9 + b"b")
    assert one != environment.fingerprint(tmp_path)
    assert environment.fingerprint(tmp_path / "no") is None


def test_a_killed_cost_cell_is_measured_again(
    request_: session.Request, results: dict[str, Any], tmp_path: Path
) -> None:
    with Log(tmp_path / "cost.jsonl") as log:
        assert session._lookup(request_, log.records, 1, 2) is None
        log.append([session._key(request_, 1, 2) | {"cell": {"a": 1}}])
        assert session._lookup(request_, log.records, 1, 2) == {"a": 1}
        assert session._lookup(replace(request_, repeats=9), log.records, 1, 2) is None


def test_the_library_knows_no_command_line() -> None:

    root = Path(session.__file__).parent
    assert not [
        p for p in root.rglob("*.py") if re.search(r"^\s*(import|from) (typer|rich|foveate\.cli)", p.read_text(), re.M)
    ]


def test_a_picture_in_tiles_is_drawn_whole() -> None:
    """Some models' reports have an image for each tile: the first one's tokens are not the picture's."""
    way = Way("random", "0.5", "plan", METHODS["random"](keep=0.5))
    tile, grid = (Block(0, 2, 2),), tuple(Block(4 * i, 2, 2) for i in range(5))
    record = {"answer": "a", "score": 1.0, "kept": 5, "visual": 20}
    apart = {"masks": [mask([i % 4], 4) for i in range(5)], "grids": [plain(tile)] * 5}
    whole = {"masks": [mask([0, 5, 10, 15, 16], 20)], "grids": [plain(grid)]}
    picture = noise(40, 40)
    drawn = [page.cases._panel(way, record | r, [picture], 20, None) for r in (apart, whole, {})]
    assert drawn[0] == drawn[1] != drawn[2]
    # Of several pictures nobody knows whose tiles they are.
    assert page.cases._panel(way, record | apart, [picture] * 2, 20, None) == drawn[2]


def test_what_is_timed_has_a_picture(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    good = Example("2", (noise(8, 8),), "?", ("a",))
    some = [Example("0", (), "?", ("a",)), Example("1", (tmp_path / "bad.png",), "?", ("a",)), good]
    assert session._readable(tasks.Task("t", some, lambda *_: 0.0, ""), 2) == [good]
    with pytest.raises(FoveateError, match="nothing can be timed"):
        session._readable(tasks.Task("t", some[:2], lambda *_: 0.0, ""), 2)
