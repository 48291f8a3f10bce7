"""Every example runs as its first line says, on a small model of Qwen2.5-VL's type in the place of the real one."""

import json
import re
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from foveate.engines.vllm import settings
from foveate.search import auto, halves
from foveate.tiny import examples as world

ROOT = Path(__file__).parents[1]
SMALL = ROOT / "instruments" / "qwen2_5_vl"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.write(tmp_path_factory.mktemp("data"), range(6), "train", 1)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The script with these words after the model's, in this process: PyTorch is imported once."""

    def script(name: str, *words: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, str(SMALL), *map(str, words)])
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
        return capsys.readouterr().out

    return script


def pictures(data: Path, count: int) -> list[Path]:
    lines = map(json.loads, data.read_text().splitlines())
    return [data.parent / n for n in dict.fromkeys(line["image"] for line in lines)][:count]


def test_one_picture(run: Callable[..., str], data: Path) -> None:
    said = run("one_picture.py", pictures(data, 1)[0], "what color is the star?")
    assert "144 visual tokens" in said and len(said.splitlines()) > 1


def test_documents(run: Callable[..., str], data: Path, tmp_path: Path) -> None:
    for picture in pictures(data, 5):
        shutil.copy(picture, tmp_path)
    lines = run("documents.py", tmp_path, "what color is the star?").splitlines()
    assert len(lines) == 5 and all("(64 of 144 tokens)" in line for line in lines)


def test_chat(run: Callable[..., str], data: Path) -> None:
    lines = run("chat.py", *pictures(data, 2)).splitlines()
    counts = [re.search(r"\(([\d,]+) of ([\d,]+) cache entries\)", line) for line in lines]
    kept, full = ([int(c[i].replace(",", "")) for c in counts if c] for i in (1, 2))
    assert len(kept) == 3 and kept == sorted(kept) and all(k < 0.6 * f for k, f in zip(kept, full, strict=True))


def test_lora(run: Callable[..., str], data: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    file = data.parent / "few.jsonl"
    file.write_text("\n".join(data.read_text().splitlines()[:3]))
    lines = run("lora.py", file, tmp_path / "adapter").splitlines()
    losses = [float(line.rpartition(" ")[2]) for line in lines]
    assert len(losses) == 3 and all(0 < x < 20 for x in losses)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    file.unlink()


def test_own_selector(run: Callable[..., str], data: Path) -> None:
    lines = run("own_selector.py", pictures(data, 1)[0], "what color is the star?").splitlines()
    assert [line.partition(":")[0] for line in lines] == ["all", "mine", "divprune"]


def test_searched_plan(run: Callable[..., str], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(halves, "FEWEST", 3)
    said = run("searched_plan.py", data, tmp_path / "plan.json", pictures(data, 1)[0])
    assert "that the search did not see" in said and "144 visual tokens" in said


def test_served_plan(run: Callable[..., str], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for vLLM, which has an environment of its own."""
    seen: list[dict[str, Any]] = []

    def llm(model: str, **options: Any) -> Any:
        seen.append(options["hf_overrides"]["foveate"])
        out = SimpleNamespace(outputs=[SimpleNamespace(text=" a ")], prompt_token_ids=[0] * 50)
        return SimpleNamespace(chat=lambda messages, wish: [out])

    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=llm, SamplingParams=dict))  # type: ignore[arg-type]
    monkeypatch.setattr(halves, "FEWEST", 3)
    words = (data, tmp_path / "plan.json", pictures(data, 1)[0])
    first = run("served_plan.py", *words)
    assert "that the search did not see" in first and "a  (50 tokens of prompt)" in first
    (plan,) = seen
    assert settings.read(plan, 8, ours=True).plan is not None and len(plan["cuts"]) == 1
    monkeypatch.setattr(auto, "explore", None)
    assert run("served_plan.py", *words) == first, "it searched again"


def test_all_are_listed_and_short() -> None:
    listed = (ROOT / "examples" / "README.md").read_text()
    for file in (ROOT / "examples").glob("*.py"):
        assert f"]({file.name})" in listed and f"def test_{file.stem}(" in Path(__file__).read_text(), file.name
        assert len(file.read_text().splitlines()) <= 45, file.name
