"""Imports run one way."""

import ast
from pathlib import Path

import foveate

ROOT = Path(foveate.__file__).parent
ORDER = ["errors", "ops", "selection", "plan_text", "cut", "plan", "pointer", "methods", "views", "hf"]
HF = ["clock", "families", "taps", "cache", "prompt", "segment", "step", "cutting", "checks", "encode", "calls",
      "report", "attach"]  # fmt: skip


def imported(path: Path, depth: int = 1) -> set[str]:
    """The parts of foveate (or, at depth 2, of one room) that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("foveate"):
            names |= {node.module} if node.module != "foveate" else {f"foveate.{a.name}" for a in node.names}
    return {n.split(".")[depth] for n in names if len(n.split(".")) > depth}


def test_imports_run_one_way():
    for path in ROOT.rglob("*.py"):
        mine, *inside = path.relative_to(ROOT).with_suffix("").parts
        # Training asks models; only the selector itself stands before the methods.
        if mine not in ORDER or (mine == "pointer" and inside[0] == "train"):
            continue
        later = {n for n in imported(path) - {mine} if n not in ORDER or ORDER.index(n) > ORDER.index(mine)}
        assert not later, f"{path.name} imports {later}, which comes after it"


def test_methods_know_no_model():
    for path in (ROOT / "methods").glob("*.py"):
        assert imported(path) <= {"errors", "ops", "selection", "cut", "plan", "pointer", "methods"}, (
            path.name
        )
        assert "transformers" not in path.read_text(), path.name
