"""Whatever stands in the files of a benchmark: figures, or one sentence."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from foveate.bench import asking, run
from foveate.bench.compare import compare
from foveate.bench.log import Log
from foveate.errors import FoveateError

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(10**400, 10**401) | st.floats() | st.text(max_size=8),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=8), v, max_size=3),
    max_leaves=5,
)
SCORES = {"ids": ["1", "2"], "questions": ["a?", "b?"], "ways": {"full": {"scores": [1.0, 0.0]}}}
GOOD = {
    "foveate_bench": run.VERSION,
    "finished": "today",
    "config": {"ways": [{"id": "full", "plan": None}]},
    "environment": {"commit": None},
    "quality": {"rows": [{"task": "t", "way": "full", "method": "full", "keep": "1.0", "accuracy": 0.5}]},
    "cost": [],
    "samples": {"t": SCORES},
}
PLACES = [(k,) for k in GOOD] + [
    ("config", "ways"), ("quality", "rows"), ("quality", "rows", 0), ("quality", "rows", 0, "task"),
    ("quality", "rows", 0, "accuracy"), ("samples", "t"), ("samples", "t", "ids"), ("samples", "t", "ways"),
    ("samples", "t", "ways", "full", "scores"), ("samples", "t", "ways", "full", "scores", 0),
]  # fmt: skip
quick = settings(
    deadline=None, max_examples=150, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@quick
@given(st.sampled_from(PLACES), ANY)
@example(("samples", "t", "ways", "full", "scores"), [None, 10**400])
def test_any_results_compare_or_are_named(tmp_path: Path, place: tuple[str | int, ...], value: object) -> None:
    data = json.loads(json.dumps(GOOD))
    *way, last = place
    inside = data
    for step in way:
        inside = inside[step]
    inside[last] = value
    for name, text in (("a", json.dumps(GOOD)), ("b", json.dumps(data))):
        (tmp_path / f"{name}.json").write_text(text)
    try:
        assert compare(tmp_path / "a.json", tmp_path / "b.json")["rows"]
    except FoveateError as e:
        assert len(str(e)) < 1_000


@quick
@given(st.dictionaries(st.sampled_from(["task", "id", "way", "answer", "score", "broken", "failed"]), ANY) | ANY)
def test_any_line_of_a_log_is_a_record_or_is_named(tmp_path: Path, value: object) -> None:
    file = tmp_path / "samples.jsonl"
    file.write_text(json.dumps(value) + "\n")
    try:
        with Log(file, asking.is_record) as log:
            assert isinstance(log.records[0]["task"], str)
    except FoveateError as e:
        assert "line 1 of" in str(e)


def test_what_is_whole_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(GOOD))
    found = compare(tmp_path / "a.json", tmp_path / "a.json")
    assert found["rows"][0]["questions"] == 2 and not found["differences"]
    with pytest.raises(FoveateError, match="there is no folder"):
        compare(tmp_path / "a.json", tmp_path / "nowhere")
