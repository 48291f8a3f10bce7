"""The quality pass: the same figures however it was interrupted and batched, and nothing dropped in silence."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from foveate import Cut, FoveateError, Plan, samples
from foveate.bench import asking, quality, tasks
from foveate.bench.asking import divergence, grid_of, mask, plain, unmask
from foveate.bench.log import Log
from foveate.bench.tasks import Task
from foveate.bench.ways import Way
from foveate.engines import score
from foveate.methods.uniform import Uniform
from foveate.selection import Block


@pytest.fixture(scope="module")
def task() -> Task:
    return tasks.load("tiny", 7)[0]


def run(engine: Any, task: Task, ways: list[Way], file: Path, batch: int = 3, steps: int | None = None) -> list[Any]:
    with Log(file) as log:
        for _ in islice(asking.ask(engine, task, ways, log, batch), steps):
            pass
        return list(log.records)


@pytest.fixture(scope="module")
def whole(engine: Any, task: Task, ways: list[Way], tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return run(engine, task, ways, tmp_path_factory.mktemp("whole") / "s.jsonl")


def by_key(records: list[Any]) -> dict[tuple[str, str], Any]:
    found = {(r["way"], r["id"]): r for r in records}
    assert len(found) == len(records)
    return found


def test_everything_is_asked_once(task: Task, ways: list[Way], whole: list[Any]) -> None:
    assert set(by_key(whole)) == {(w.id, e.id) for w in ways for e in task.examples}


@pytest.mark.parametrize("steps", [1, 5])
def test_stopped_between_batches(
    engine: Any, task: Task, ways: list[Way], whole: list[Any], tmp_path: Path, steps: int
) -> None:
    first = run(engine, task, ways, tmp_path / "s.jsonl", steps=steps)
    assert 0 < len(first) < len(whole)
    # To the last bit, KL included.
    assert by_key(run(engine, task, ways, tmp_path / "s.jsonl")) == by_key(whole)


def test_killed_while_writing(engine: Any, task: Task, ways: list[Way], whole: list[Any], tmp_path: Path) -> None:
    file = tmp_path / "s.jsonl"
    lines = "".join(json.dumps(r) + "\n" for r in whole).encode()
    # In the middle of a line in the middle of a batch.
    file.write_bytes(lines[: int(len(lines) * 0.6)])
    assert by_key(run(engine, task, ways, file)) == by_key(whole)


def test_nothing_depends_on_the_batch(
    engine: Any, task: Task, ways: list[Way], whole: list[Any], tmp_path: Path
) -> None:
    alone = by_key(run(engine, task, ways, tmp_path / "s.jsonl", batch=1))
    for key, r in by_key(whole).items():
        same = {k: v for k, v in r.items() if k not in ("kl", "confidence")}
        assert same == {k: v for k, v in alone[key].items() if k not in ("kl", "confidence")}
        for k in ("kl", "confidence"):
            assert r.get(k) == pytest.approx(alone[key].get(k), abs=1e-4)


@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_way_is_answered_as_the_engine_answers(
    engine: Any, task: Task, ways: list[Way], whole: list[Any], number: int
) -> None:
    """Though pictures are encoded once for all plans."""
    way, found = ways[number], by_key(whole)
    said = score.answer(engine, task.examples[:2], way.plan, task.max_new_tokens)
    mine = [found[way.id, e.id] for e in task.examples[:2]]
    assert [r["answer"] for r in mine] == [s.text for s in said]
    if way.plan:
        assert [r["masks"] for r in mine] == [[mask(i.cuts[-1].kept, i.tokens) for i in s.images] for s in said]


def test_pictures_are_encoded_once_for_all_plans(engine: Any, task: Task, ways: list[Way], tmp_path: Path) -> None:
    calls: list[int] = []
    tower = next(m for n, m in engine.model.named_modules() if n.endswith("vision_tower"))
    handle = tower.register_forward_hook(lambda *_: calls.append(1))
    few = replace(task, examples=task.examples[:1])
    run(engine, few, [ways[0], ways[1], ways[3]], tmp_path / "s.jsonl", batch=1)
    handle.remove()
    assert len(calls) == 2, "the full model's own, and one for both plans"


def test_counts_and_budgets(whole: list[Any]) -> None:
    found = by_key(whole)
    full, few, small, late = (found[w, "0"] for w in ("full", "random@0.111", "downsample@0.111", "fastv@0.222"))
    assert (full["kept"], full["budget"], full["visual"]) == (576, 576, 576)
    assert (few["kept"], few["budget"], few["visual"]) == (64, 64, 576)
    assert small["kept"] == small["budget"] == small["visual"] == 64
    assert (late["kept"], late["budget"]) == (128, (2 * 576 + 8 * 128) / 10)
    assert len(unmask(few["masks"][0])) == 64
    assert "kl" not in full
    assert few["kl"] >= 0


def test_a_picture_that_cannot_be_read(engine: Any, ways: list[Way], tmp_path: Path) -> None:
    lines = []
    for i, sample in enumerate(samples.load()[:4]):
        file = tmp_path / f"{i}.png"
        file.write_bytes(b"no picture" if i == 2 else Path(sample.image).read_bytes())
        lines.append(json.dumps({"image": file.name, "question": sample.question, "answer": sample.answer}))
    (tmp_path / "mine.jsonl").write_text("\n".join(lines))
    task = tasks.load(str(tmp_path / "mine.jsonl"))[0]
    records = run(engine, task, ways, tmp_path / "out")
    broken = [r for r in records if "broken" in r]
    assert [(r["id"], "is no image" in r["broken"]) for r in broken] == [("3", True)]
    assert len(records) == 1 + 3 * len(ways)
    figures = quality.figures([task], ways, records, "random")
    assert figures["tasks"][0]["broken"] == [{"id": "3", "why": broken[0]["broken"]}]
    assert [r["n"] for r in figures["rows"]] == [3] * len(ways)
    assert figures["rows"][0]["accuracy"] == 1.0
    # Asked again, nothing is left to do.
    with Log(tmp_path / "out") as log:
        assert asking.pending(task, ways, log) == 0
        assert list(asking.ask(engine, task, ways, log, 3)) == []


def test_a_way_that_fails_says_why_and_scores_nothing(engine: Any, task: Task, ways: list[Way], tmp_path: Path) -> None:
    much = Way("uniform", "577", "plan", Plan((Cut("input", Uniform(), 577, exact=True),)))
    records = run(engine, replace(task, examples=task.examples[:2]), [ways[0], much], tmp_path / "s.jsonl")
    failed = [r for r in records if r["way"] == much.id]
    assert [(r["score"], "only 576 tokens" in r["failed"]) for r in failed] == [(0, True)] * 2
    row = quality.figures([replace(task, examples=task.examples[:2])], [ways[0], much], records, "uniform")["rows"][1]
    assert (row["accuracy"], row["failed"]) == (None, 2)
    assert "576" in row["why"]


def test_a_plan_that_cannot_be_is_in_the_table(engine: Any, task: Task, ways: list[Way], tmp_path: Path) -> None:
    few = replace(task, examples=task.examples[:2])
    none = Way("pyramiddrop", "0.1", "plan", None, "not so few")
    records = run(engine, few, [ways[0], none], tmp_path / "s.jsonl")
    row = quality.figures([few], [ways[0], none], records, "pyramiddrop")["rows"][1]
    assert (row["accuracy"], row["failed"], row["why"]) == (None, 2, "not so few")


def test_out_of_memory_is_no_wrong_answer(
    engine: Any, task: Task, ways: list[Way], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("no")

    monkeypatch.setattr(asking, "answer_prompt", fail)
    with pytest.raises(FoveateError, match="smaller --batch-size"):
        run(engine, task, ways, tmp_path / "s.jsonl")
    with Log(tmp_path / "s.jsonl") as log:
        assert log.records == []


def test_two_tasks_share_a_log(engine: Any, task: Task, ways: list[Way], tmp_path: Path) -> None:
    one, two = (replace(task, name=n, examples=task.examples[:2]) for n in ("a", "b"))
    for t in (one, two):
        run(engine, t, ways[:2], tmp_path / "s.jsonl")
    with Log(tmp_path / "s.jsonl") as log:
        assert [asking.pending(t, ways[:2], log) for t in (one, two, task)] == [0, 0, 14]


def test_divergence() -> None:
    a, b = torch.tensor([0.5, 0.5, 0.0]).log(), torch.tensor([0.25, 0.5, 0.25]).log()
    assert divergence(a, a) == 0
    assert divergence(a, b) == pytest.approx(0.5 * torch.log(torch.tensor(2.0)).item())


@pytest.mark.parametrize("tokens", [1, 7, 64, 577])
def test_masks_and_grids_come_back(tokens: int) -> None:
    kept = sorted({0, tokens // 2, tokens - 1})
    assert unmask(mask(kept, tokens)) == kept
    grid = (Block(0, 4, 6), Block(24, 3, 5, True))
    assert grid_of(plain(grid)) == grid


def test_the_picture_is_the_scenes(task: Task) -> None:
    assert isinstance(task.examples[0].pictures()[0], Image.Image)
    assert len({e.id for e in task.examples}) == len(task.examples)
