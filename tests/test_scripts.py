"""Scripts of the repository: no option is parsed and left unread; every figure's script and file are named."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))
PARSING = [p for p in [*SCRIPTS, *(ROOT / "instruments").rglob("*.py"), *(ROOT / "src").rglob("*.py")]
           if ".add_argument(" in p.read_text(encoding="utf-8")]  # fmt: skip
BEHIND = {"kernel_speed": {"cases", "large", "walks"}, "sts_reading": {"blocks", "width", "work"}}
"""Options that are read by a name that is put together, or by what the parsed words are handed to."""
REPRODUCE = (ROOT / "docs" / "reproduce.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PARSING, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_option_is_read(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    read = {n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load)}
    calls = [n for n in nodes if isinstance(n, ast.Call) and getattr(n.func, "attr", "") == "add_argument"]
    words = [[a.value for a in c.args if isinstance(a, ast.Constant)] for c in calls]
    assert all(words)
    names = {next((w for w in given if w.startswith("--")), given[0]).lstrip("-").replace("-", "_") for given in words}
    assert names - read - BEHIND.get(path.stem, set()) == set()


def test_every_script_is_named_where_a_reader_looks_for_it() -> None:
    started = [p.name for p in SCRIPTS if "__main__" in p.read_text(encoding="utf-8")]
    assert len(started) > 30
    assert [name for name in started if f"`{name}`" not in REPRODUCE] == []


def test_every_result_is_named_beside_its_script() -> None:
    table = "\n".join(line for line in REPRODUCE.splitlines() if line.startswith("| "))
    found = sorted(p.stem for p in (ROOT / "benchmarks" / "results").glob("*.json"))
    assert [name for name in found if not re.search(rf"[ ,]{re.escape(name)}[ ,]", table)] == []
