"""Every Python block of the README and the documentation runs, in its order, as a reader would paste it.

Checkpoints that only a hub has are replaced by a small local one of the same type, pictures by one of the package's.
"""

import contextlib
import io
import json
import re
import shutil
from pathlib import Path

import pytest
import transformers

from foveate import images, samples
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


def test_the_site_has_every_page():
    nav = re.findall(r"^\s+- (?:[^:\n]+: )?(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), flags=re.M)
    assert sorted(nav) == sorted(str(p.relative_to(ROOT / "docs")) for p in PAGES[1:])
