"""Who may import whom, in one table: no circle, nothing climbs, no engine imports another."""

import ast
from pathlib import Path

import pytest

import foveate

ROOT = Path(foveate.__file__).parent

CORE = "errors reading typed ops selection cut plan_text plan"
# Each line may import what its own line names; a room's name stands for all files in it, "room.part" for one part.
MAY = {
    # What a method sees and answers.
    "errors": "",
    "reading": "errors",
    "typed": "errors",
    "ops": "errors",
    "selection": "errors ops",
    "cut": "errors typed ops selection",
    "plan_text": "errors reading typed",
    "plan": "errors selection cut plan_text",
    "pointer": f"{CORE} files",
    "methods": f"{CORE} pointer words",
    # What every engine needs to choose.
    "fields": f"{CORE}",
    "choice_checks": f"{CORE}",
    "choosing": f"{CORE} fields choice_checks",
    "servable": f"{CORE} fields",
    "geometry": "errors ops selection",
    "question": "",
    "words": "errors",
    # Engines: one room each.
    "hf": f"{CORE} fields choosing servable geometry question words",
    "engines": f"{CORE} methods fields choosing servable geometry question hf tiny data files images",
    "engines.vllm": f"{CORE} methods fields choosing servable geometry question engines data files images __version__",
    "families": "hf geometry",
    # The products around them.
    "files": "errors",
    "images": "errors files",
    "metrics": "errors",
    "data": "errors images files reading",
    "viz": f"{CORE} files hf geometry",
    "tiny": f"{CORE} data files hf geometry",
    "samples": "engines files tiny",
    "search": f"{CORE} fields methods servable hf engines data files metrics geometry",
    "pointer.train": f"{CORE} pointer methods hf engines data files metrics question",
    "bench": f"{CORE} methods hf geometry engines data files images metrics tiny viz __version__",
    "ui": f"{CORE} methods hf engines data files viz bench search",
    "cli": None,
}
# Inside the Hugging Face engine: each file may import those before it.
HF = ["text_tower", "wrappers", "clock", "kept", "cut_layers", "cache", "picking", "sizing", "taps", "families",
      "listen", "prompt", "locating", "segment", "step", "layers", "restore", "raters", "shorten", "cutting",
      "follow", "checks", "plan_checks", "refusals", "calls", "guesses", "embedded", "reading", "encodings",
      "encoder_cut", "between", "encode", "report", "accounting", "run", "probe", "loss", "beginning", "placing",
      "passing", "hooks", "attach"]  # fmt: skip


def imported(path: Path) -> set[tuple[str, ...]]:
    """Modules of foveate that a file imports, as their parts."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "foveate":
            found |= {f"{node.module}.{a.name}" for a in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.split(".")[0] == "foveate"}
    return {tuple(name.split(".")[1:]) for name in found if "." in name}


def room(parts: tuple[str, ...]) -> str:
    """The line of the table that a module belongs to."""
    return ".".join(parts[:2]) if ".".join(parts[:2]) in MAY else parts[0]


FILES = [p for p in sorted(ROOT.rglob("*.py")) if p.parent != ROOT or not p.stem.startswith("__")]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_what_its_room_may(path):
    mine = room(path.relative_to(ROOT).with_suffix("").parts)
    assert mine in MAY, f"{mine} is new: give it a line in the table"
    may = MAY[mine]
    if may is None:
        return
    others = {room(parts) for parts in imported(path)} - {mine}
    assert others <= set(may.split()), f"{path.relative_to(ROOT)} imports {sorted(others - set(may.split()))}"


def test_the_table_has_no_circle():
    left = {name: set(may.split()) & MAY.keys() for name, may in MAY.items() if may is not None}
    while free := {name for name, needs in left.items() if not needs & left.keys()}:
        left = {name: needs for name, needs in left.items() if name not in free}
    assert not left


def test_hugging_face_runs_one_way():
    for path in (ROOT / "hf").rglob("*.py"):
        mine = path.relative_to(ROOT / "hf").with_suffix("").parts[0]
        if mine == "__init__":
            continue
        others = {parts[1] for parts in imported(path) if parts[0] == "hf" and len(parts) > 1} - {mine}
        later = {n for n in others if HF.index(n) > HF.index(mine)}
        assert not later, f"{path.name} imports {later}, which comes after it"


@pytest.mark.parametrize("name", ["ops", "methods", "fields", "choosing", "selection", "cut", "plan"])
def test_choosing_knows_no_engine(name):
    for path in [*(ROOT / name).rglob("*.py"), ROOT / f"{name}.py"]:
        if path.exists():
            assert "import transformers" not in (text := path.read_text()) and "from transformers" not in text, path


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_long_file_says_why(path):
    """One reason to exist each: 220 lines hold most; where they do not, "long:" and the reason open the file."""
    first, *rest = path.read_text().splitlines() or [""]
    assert len(rest) < 220 or "long:" in first, f"{path.relative_to(ROOT)} has {len(rest) + 1} lines"


OF_TYPES = ("hf/families", "geometry", "hf/text_tower.py", "engines/loading.py")
"""Who may ask for a model's type: those that know types, and the readers of joint spaces' and processors' files."""


def test_only_families_ask_for_a_models_type():
    """Everything else takes a model for what its parts are."""
    asked = []
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare) and not name.startswith(OF_TYPES):
                sides = [node.left, *node.comparators]
                known = any(isinstance(x, ast.Constant) and isinstance(x.value, str) for x in sides)
                named = any(getattr(x, "attr", getattr(x, "id", "")) == "model_type" for x in sides)
                asked += [f"{name}:{node.lineno}"] if known and named else []
    assert not asked
