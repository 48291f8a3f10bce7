"""Data files: what is read, and that nothing wrong in them passes."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from foveate import FoveateError, data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / name)
    return tmp_path


def write(folder: Path, *entries: Any) -> Path:
    file = folder / "data.jsonl"
    file.write_text("\n".join(e if isinstance(e, str) else json.dumps(e) for e in entries))
    return file


def test_every_form_is_read_the_same_from_file_and_folder(folder: Path) -> None:
    file = write(
        folder,
        {"image": "a.png", "question": "what?", "answer": "k", "source": "left alone"},
        "",
        {"id": "two", "images": ["a.png", "b.png"], "question": "both?", "answers": ["x", "y"]},
        {"question": "how many?", "image": "b.png", "answer": 3},
        {"question": "unknown?", "image": "b.png", "id": None},
    )
    examples = data.load(file)
    assert examples == data.load(folder)
    assert [e.id for e in examples] == ["1", "two", "4", "5"]
    assert [e.answers for e in examples] == [("k",), ("x", "y"), ("3",), ()]
    assert [p.size for p in examples[1].pictures()] == [(8, 8)] * 2


@pytest.mark.parametrize("end", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_only_a_newline_ends_a_line(folder: Path, end: str) -> None:
    """JSON may hold raw what other tools take for the end of a line."""
    if end >= " ":
        assert data.load(write(folder, json.dumps(GOOD | {"question": f"a{end}b?"}, ensure_ascii=False), GOOD))[
            0
        ].question == (f"a{end}b?")
    lines = [json.dumps(GOOD), json.dumps(GOOD | {"question": "b?"})]
    file = folder / "data.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert [e.question for e in data.load(file)] == ["what?", "b?"]


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(10**400, 10**401) | st.floats() | st.text(max_size=8),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=8), v, max_size=3),
    max_leaves=5,
)


@settings(
    deadline=None, max_examples=150, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.dictionaries(st.sampled_from(["id", "image", "images", "question", "answer", "group", "file", ""]), ANY),
       st.text(max_size=20), st.booleans())  # fmt: skip
def test_any_line_is_an_example_or_a_sentence(folder: Path, entry: dict[str, Any], tail: str, whole: bool) -> None:
    text = json.dumps(GOOD | entry, ensure_ascii=False)
    file = folder / "data.jsonl"
    file.write_text(text + ("" if whole else tail), encoding="utf-8", errors="surrogatepass", newline="\n")
    try:
        assert data.load(file)
    except FoveateError as e:
        assert str(e)


GOOD = {"image": "a.png", "question": "what?", "answer": "k"}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "holds no examples"),
        ([{"Image": "a.png", "question": "what?"}], "did you mean 'image'"),
        ([{"img": "a.png", "question": "what?"}], "did you mean 'image'"),
        ([{"image_path": "a.png", "question": "what?"}], "did you mean 'image'"),
        ([{"picture": "a.png", "question": "what?"}], "did you mean 'image'"),
        ([{"file": "a.png", "question": "what?"}], "did you mean 'image'"),
        ([{"pictures": ["a.png"], "question": "what?"}], "did you mean 'images'"),
        ([{"where": "shots/a.JPG", "question": "what?"}], "line 1 of .* did you mean 'image'"),
        ([{"image": "a.png", "prompt": "what?"}], "did you mean 'question'"),
        ([{**GOOD, "image": "https://example.org/a.png"}], "line 1 of .* fetches nothing"),
        ([{**GOOD, "image": "x" * 5_000}], "line 1 of .* can be no path"),
        ([{**GOOD, "image": "~nosuchuser/a.png"}], "line 1 of .* can be no path"),
        (["[" * 100_000], "nested too deeply"),
        (['{"id": ' + "9" * 5_000 + "}"], "a number has 5,000 digits"),
        (['{"id": NaN}'], "NaN is no number"),
        (["{"], "line 1 of .* is not JSON"),
        (["[1]"], "no JSON object"),
        ([GOOD, {"image": "a.png"}], "line 2 of .* asks nothing"),
        ([{**GOOD, "question": "  "}], "asks nothing"),
        ([{**GOOD, "image": "c.png"}], "c.png, which does not exist"),
        ([{**GOOD, "images": ["a.png"]}], "both 'image' and 'images'"),
        ([{**GOOD, "answer": ["k"]}], "'answer' must be text"),
        ([{**GOOD, "answer": True}], "'answer' must be text"),
        ([{"image": "a.png", "question": "what?", "anwser": "k"}], "did you mean 'answer'"),
        ([{**GOOD, "id": "x"}, {**GOOD, "id": "x", "question": "other?"}], "two examples of id 'x'"),
        ([GOOD, {**GOOD, "answer": "t"}], "examples 1 and 2 of .* answers differ"),
        ([{"image": "a.png", "question": "what?"}], "example 1 of .* has no answer"),
    ],
)
def test_what_is_wrong_is_named(folder: Path, lines: list[Any], message: str) -> None:
    with pytest.raises(FoveateError, match=message):
        data.load(write(folder, *lines), labelled=True)


def test_a_place_without_one_data_file_is_refused(folder: Path) -> None:
    with pytest.raises(FoveateError, match="no data at"):
        data.load(folder / "none.jsonl")
    with pytest.raises(FoveateError, match=r"must hold one \.jsonl file, but holds none"):
        data.load(folder)
    write(folder, GOOD)
    (folder / "more.jsonl").write_text("")
    with pytest.raises(FoveateError, match=r"data\.jsonl, more\.jsonl"):
        data.load(folder)
    (folder / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FoveateError, match="not UTF-8"):
        data.load(folder / "binary.jsonl")
