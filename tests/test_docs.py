"""Every Python block of the README and the documentation runs, in its order, as a reader would paste it.

Checkpoints that only a hub has are replaced by a small local one of the same type, pictures by one of the package's.
"""

import contextlib
import importlib
import io
import json
import re
import shutil
from pathlib import Path

import pytest
import transformers

from foveate import images, methods, samples
from foveate.engines import hf
from foveate.engines.still import load_still

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
INSTRUMENT = ROOT / "instruments" / "qwen2_5_vl"


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


# It needs vLLM, which has an environment of its own: tests/serving.
ELSEWHERE = {"serving.md"}


def ids(page: Path) -> str:
    return str(page.relative_to(ROOT))


def given(folder: Path) -> dict[str, object]:
    """What the methods' pages take for granted: an engine, its model, inputs, and data."""
    engine = hf.load("tiny")
    sample = samples.load()[0]
    text = f"USER: <image> {sample.question} ASSISTANT:"
    inputs = engine.processor(text=[text], images=[images.load(sample.image)], return_tensors="pt")
    lines = [{"image": str(s.image), "question": s.question, "answer": s.answer} for s in samples.load()]
    (folder / "pictures.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return {"engine": engine, "model": engine.model, "inputs": inputs}


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python") and p.name not in ELSEWHERE], ids=ids)
def test_python_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "src" / "foveate" / "samples" / samples.load()[0].image.name, tmp_path / "photo.jpg")
    # Its own processor wants torchvision, which is no part of the test environment.
    load = transformers.AutoProcessor.from_pretrained
    still = lambda name, **kwargs: load_still(name) if name == str(INSTRUMENT) else load(name, **kwargs)  # noqa: E731
    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", still)
    names: dict[str, object] = {"__name__": "page"}
    if page.parent.name == "methods" or page.name == "performance.md":
        names |= given(tmp_path)
    printed = io.StringIO()
    for block in blocks(page, "python"):
        code = re.sub(r"Qwen/Qwen2\.5-VL-\w+-Instruct", str(INSTRUMENT), block).replace(', device_map="auto"', "")
        code = re.sub(r"runs/sts-\w+/selector", "tiny", code)
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(page), "exec"), names)
    if "attached" in names:
        report = names["attached"].report
        assert report.budget < report.images[0].tokens, "nothing was dropped"


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_nothing_is_installed_by_a_name_that_no_index_has(page):
    assert not re.search(r"install ['\"]?foveate\b", page.read_text(encoding="utf-8"))


def test_the_site_has_every_page():
    nav = re.findall(r"^\s+- (?:[^:\n]+: )?(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), flags=re.M)
    assert sorted(nav) == sorted(str(p.relative_to(ROOT / "docs")) for p in PAGES[1:])


def test_every_method_and_its_options_are_on_one_page():
    listed = re.findall(r"^::: ([\w.]+)$", (ROOT / "docs/methods/options.md").read_text(), flags=re.M)
    for name, f in methods.METHODS.items():
        assert f"{f.__module__}.{f.__name__}" in listed, f"docs/methods/options.md lacks {name}"
    assert [
        n for n in listed if importlib.import_module(n.rpartition(".")[0]).__dict__.get(n.rpartition(".")[2]) is None
    ] == []


NAMES = (
    r"Qwen2 to 3\.5-VL|Gemma 3 and 4|Mistral 3|GLM-4V|Llama 4|transformers 5\.24|vLLM 0\.32 and 0\.33"
    r"|Qwen2-0\.5B|0\.5B shape|Apache-2\.0|batch 1,"
)
"""Names and settings of the front page that have digits in them."""


def results(name: str) -> dict:
    return json.loads((ROOT / "benchmarks" / "results" / name).read_text())


def test_every_number_on_the_front_page_is_held_by_a_file():
    text = re.sub(r"```.*?```", "", PAGES[0].read_text(encoding="utf-8"), flags=re.DOTALL)
    text = re.sub(r"\]\([^)]*\)", "]", text)

    def claims(pattern: str) -> tuple[str, ...]:
        nonlocal text
        found = re.search(pattern, text.replace("\n", " "))
        assert found, f"the front page no longer says {pattern!r}; mend this test with it"
        text = text.replace("\n", " ").replace(found[0], "")
        return found.groups()

    # The picture: the plan's counts, and the answer of the model that comes with the package.
    question, first, second, third, full, answer = claims(
        r'"([^"]+)" — `tops` keeps (\d+), then (\d+), then (\d+) of (\d+) tokens, and the model still answers "([^"]+)"'
    )
    sample = next(s for s in samples.load() if s.question == question)
    engine = hf.load("tiny")
    plan = methods.tops(keep=0.222, depth=engine.facts.depth)
    assert [str(c.count(int(full))) for c in plan.cuts] == [first, second, third]
    asked = hf.ask(engine, [images.load(sample.image)], question, plan, 8)
    assert asked.text == answer == sample.answer and asked.visual_tokens == int(full)
    # The chart.
    share, questions = claims(
        r"Keeping ([\d.]+) % of the tokens .*?whiskers are 95 % intervals over ([\d,]+) questions"
    )
    cells, cost = results("catalogue.json")["cells"], results("cost.json")
    drawn = [f"{w['method']}@{share}%" for w in cost["ways"] if w["method"] != "full"]
    assert len(drawn) > 8 and {100 * len(cells[c]["right"]) for c in drawn} == {int(questions.replace(",", ""))}
    assert cost["shape"] == "llava-0.5b" and 1 in {c["batch"] for c in cost["cells"]}
    assert {w["keep"] for w in cost["ways"]} <= {f"{float(share) / 100:.3f}", "1.0"}
    # Pretrained parts.
    number, full, many, few, wide, narrow, rival, other, asked = claims(
        r"\(([\d,]+) questions, all tokens ([\d.]+) % right\).*?has ([\d.]+) and ([\d.]+) % with ([\d.]+) "
        r"and ([\d.]+) % of the tokens; .*? weighed has ([\d.]+) and ([\d.]+) % of ([\d,]+) questions"
    )
    theirs, ours = results("smol.json")["ways"], results("sts_reading.json")["smol"]["ways"]
    held = [theirs["full 100%"], *(ours[f"sts, reads {k}%"] for k in (wide, narrow))]
    best = [theirs[f"divprune, merged, sized {k}%"] for k in (wide, narrow)]
    assert [f"{w['percent']:.1f}" for w in held + best] == [full, many, few, rival, other]
    assert {w["questions"] for w in held} == {int(number.replace(",", ""))}
    assert {w["questions"] for w in best} == {int(asked.replace(",", ""))}
    # The models: a page of its own, which its own test compares with the code.
    cut, known = claims(r"(\d+) of the (\d+) image-and-text types")
    page = (ROOT / "docs" / "models.md").read_text()
    assert f"the {known} types" in page and f"({cut} are cut)" in page
    left = re.sub(NAMES, "", text)
    assert re.findall(r".{0,20}\d[\d.]*.{0,20}", left) == [], "a number that no file holds"
