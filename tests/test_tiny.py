"""The embedded model loads, refuses damage, and answers its samples."""

import shutil
from pathlib import Path

import pytest
import torch

from foveate import FoveateError, images, samples, tiny
from foveate.engines import hf


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny.path(), folder)
    monkeypatch.setattr(tiny, "_FOLDER", folder)
    return folder


def test_every_file_has_a_sum() -> None:
    folder = tiny.path()
    listed = {line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text().splitlines()}
    assert listed == {f.name for f in folder.iterdir()} - {"SHA256SUMS"}


def test_loads_as_asked() -> None:
    model, processor = tiny.load()
    assert model.dtype == torch.float32
    assert not model.training
    assert processor.tokenizer.pad_token_id == 0
    assert tiny.load(dtype=torch.bfloat16)[0].dtype == torch.bfloat16


def test_a_changed_byte_is_noticed(copy: Path) -> None:
    assert tiny.path() == copy
    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(1_000_000)
        byte = file.read(1)
        file.seek(1_000_000)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(FoveateError, match=r"model\.safetensors is damaged.*install foveate again"):
        tiny.load()


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "SHA256SUMS"])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(FoveateError, match=name):
        tiny.load()


def test_answers_its_samples() -> None:
    engine = hf.load()
    asked = samples.load()
    assert len(asked) == 8
    answers = [hf.ask(engine, [images.load(s.image)], s.question, max_new_tokens=4).text for s in asked]
    assert answers == [s.answer for s in asked]
