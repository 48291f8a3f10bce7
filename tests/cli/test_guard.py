"""Whatever goes wrong is one line and a status; help imports nothing heavy."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from foveate import FoveateError, errors, images, samples
from foveate.cli import app, choose, guard
from foveate.engines import hf

SAMPLE = samples.load()[4]
ASK = ["run", "--image", str(SAMPLE.image), "--prompt", SAMPLE.question, "--repeats", "1", "--max-new-tokens", "4"]
run = CliRunner().invoke


def python(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", code]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False, **options)


def test_help_imports_no_framework() -> None:
    """So that it is there at once; a time would say the same on a quiet machine only."""
    code = """
import sys
from foveate.__main__ import main
for words in (["--help"], ["--version"], *([c, "--help"] for c in "run bench search train list demo doctor ui".split()),
              ["search", "auto", "--help"], ["run", "--nonsense"], ["runn"]):
    sys.argv = ["foveate", *words]
    try:
        main()
    except SystemExit:
        pass
heavy = {"torch", "transformers", "numpy", "PIL", "optuna", "scipy"} & sys.modules.keys()
sys.exit(f"imported: {heavy}" if heavy else 0)
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_the_package_is_lazy_and_whole() -> None:
    code = """
import sys, foveate
assert "torch" not in sys.modules
assert all(hasattr(foveate, name) for name in foveate.__all__)
assert set(foveate.__all__) <= set(dir(foveate)) and "torch" in sys.modules
assert foveate.methods.divprune(keep=3).cuts[0].keep == 3 and foveate.selection.Block
try:
    foveate.atach
except AttributeError as e:
    assert "atach" in str(e)
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["foveate", "foveate.cli"])
def test_modules_are_commands(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("foveate ")


def test_a_full_and_a_closed_output() -> None:
    command = [sys.executable, "-m", "foveate", "--help"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2 and done.stderr == "foveate: No space left on device\n"
    shell = f"{sys.executable} -m foveate --version >&-"
    done = subprocess.run(shell, shell=True, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("foveate: standard output is closed")
    assert len(done.stderr.splitlines()) == 1
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert done.stderr == ""


def test_ctrl_c_while_importing() -> None:
    code = """
import sys
class Stop:
    def find_spec(self, name, *_):
        if name == "typer":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Stop())
from foveate.__main__ import main
main()
"""
    done = python(code)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "foveate: stopped\n")


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (FoveateError("two\nlines"), 2, "foveate: two lines\n"),
        (OSError(28, "No space left on device", "x.json"), 2, "foveate: No space left on device: x.json\n"),
        (MemoryError(), 2, "foveate: out of memory; ask for less at a time\n"),
        (torch.OutOfMemoryError("CUDA out of memory"), 2, "foveate: out of memory; ask for less at a time\n"),
        (RuntimeError("can't allocate memory: 9 bytes"), 2, "foveate: out of memory; ask for less at a time\n"),
        (KeyError("cuts"), 1, "foveate: KeyError: 'cuts' (nobody foresaw this: add --debug"),
        (KeyboardInterrupt(), 130, "foveate: stopped\n"),
    ],
)
def test_what_slips_through_is_one_line(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, says: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(choose, "settings", fail)
    done = run(app, ASK)
    assert done.exit_code == status and done.stdout == ""
    assert done.stderr.startswith(says) and len(done.stderr.splitlines()) == 1
    if status == 1:
        for words in ([*ASK, "--debug"], ["--debug", *ASK]):
            assert "Traceback" in run(app, words).stderr


@pytest.mark.parametrize("command", ["bench", "search", "train"])
def test_ctrl_c_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, command: str, tmp_path: Path) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(hf, "check_device", stop)
    words = {
        "bench": ["--out", str(tmp_path / "b")],
        "search": ["auto", "--budget", "0.5", "--data", "x", "--out", str(tmp_path / "p.json")],
        "train": ["sts", "--data", "x", "--out", str(tmp_path / "t")],
    }
    done = run(app, [command, *words[command]])
    assert done.exit_code == 130 and "the same command goes on where it stopped" in done.stderr
    assert len(done.stderr.splitlines()) == 1


LONG = "x" * 5_000
DEEP = "[" * 100_000
BAD: list[tuple[list[str], str]] = [
    (["--keep", ""], "keep is ''"),
    (["--method", ""], "no method ''"),
    (["--keep", "inf"], "keep is inf"),
    (["--keep", "1e400"], "keep is inf"),
    (["--keep", "9" * 5_000], "(5,000 characters)"),
    (["--plan", LONG], "can be no path"),
    (["--image", LONG], "can be no path"),
    (["--image", "~nosuchuser/a.png"], "can be no path"),
    (["--plan", "~nosuchuser/a.json"], "can be no path"),
    (["--overlay", f"{LONG}.png"], "can be no path"),
    (["--model", LONG], "can be no path"),
    (["--image", "https://example.org/a.png"], "fetches nothing"),
    (["--image", "data:image/png;base64,AAAA"], "fetches nothing"),
    (["--device", "meta"], "no device 'meta'"),
    (["--method", "random", "--set", "seed=false"], "seed is False; it must be a whole number"),
    (["--method", "psigmoid", "--set", "tokens=Infinity"], "tokens is 'Infinity'"),
    (["--method", "psigmoid", "--set", f"tokens={'9' * 5_000}"], "tokens is "),
    (["--method", "psigmoid", "--set", f"slope={DEEP}"], "slope is "),
    (["--method", "sts", "--set", 'stop_bias="x"'], "stop_bias is 'x'; it must be a finite number or null"),
    (["--method", "sts", "--set", "path=5"], "path is 5; it must be text or null"),
    (["--plan", "{deep}"], "nested too deeply"),
    (["--plan", "{digits}"], "digits"),
    (["--plan", "{infinite}"], "Infinity"),
    (["--plan", ""], "plan"),
]


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(("words", "says"), BAD, ids=[" ".join(w)[:40] for w, _ in BAD])
def test_odd_words_are_one_line_and_status_2(tmp_path: Path, words: list[str], says: str) -> None:
    plan = '{"foveate_plan": 1, "cuts": [{"at": "input", "keep": %s}]}'
    texts = {"deep": DEEP, "digits": plan % ("1" + "0" * 5_000), "infinite": plan % "Infinity"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        words = [str(tmp_path / name) if w == f"{{{name}}}" else w for w in words]
    done = run(app, [*ASK, *words])
    assert done.exit_code == 2, done.output
    assert done.stdout == "" and says in done.stderr
    assert len(done.stderr.splitlines()) == 1 and len(done.stderr) < 600


def test_a_picture_from_standard_input() -> None:
    data = SAMPLE.image.read_bytes()
    words = ["run", "--image", "-", "--prompt", SAMPLE.question, "--repeats", "1", "--max-new-tokens", "4", "--json"]
    done = run(app, words, input=data)
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["plain"]["answer"] == SAMPLE.answer
    twice = run(app, [*words, "--image", "-"], input=data)
    assert twice.exit_code == 2 and "standard input twice" in twice.stderr
    page = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(page, format="png")
    assert images.from_bytes(page.getvalue(), "page").size == (4, 4)
    with pytest.raises(FoveateError, match=r"upload is no image \(the file is empty\)"):
        images.from_bytes(b"", "upload")


def test_loading_is_said_to_a_person_and_not_to_a_program() -> None:
    words = [*ASK, "--method", "uniform"]
    assert "foveate: loading tiny ..." in run(app, words).stderr
    assert run(app, [*words, "--json"]).stderr == ""


def test_how_to_install_works_wherever_the_package_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Foveate is on no index: the packages that an extra names are."""
    assert errors.install("search") == "pip install 'optuna>=4' 'scipy>=1.15'"

    def missing(_: str) -> None:
        import importlib.metadata

        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr("importlib.metadata.requires", missing)
    assert errors.install("search") == "pip install -e '.[search]' in a clone of Foveate"


words = st.text(st.characters(codec="utf-8"), max_size=40)
numbers = st.one_of(st.integers(), st.floats(), st.integers(min_value=10**400, max_value=10**401)).map(str)
values = st.one_of(words, numbers, st.recursive(words, lambda v: st.lists(v, max_size=3), max_leaves=4).map(json.dumps))


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.one_of(words, numbers), st.lists(st.tuples(words, values).map("=".join), max_size=3))
def test_any_keep_and_any_setting_give_a_plan_or_a_sentence(keep: str, pairs: list[str]) -> None:
    for name in ("fastv", "tops", "psigmoid", "random"):
        known = [
            f"{k}={p.partition('=')[2]}" for k, p in zip(choose.parameters(name), pairs, strict=False) if k != "keep"
        ]
        for given_words in (pairs, known):
            try:
                choose.build(name, keep, choose.settings(given_words), 10)
            except FoveateError as e:
                assert str(e)


def test_typer_still_answers_its_own_errors() -> None:
    assert guard.Guard.__mro__[1].__name__ == "TyperGroup"
    done = run(app, ["run", "--repeats", "0"])
    assert done.exit_code == 2 and "Usage" in done.stderr
