"""Scripts of the repository: no option is parsed and left unread, no command line names one that there is not, what is
imported is there, and every figure's script and file are named.
"""

import ast
import importlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from foveate.cli import app

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


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.stem)
def test_what_scripts_import_from_the_package_is_there(path: Path) -> None:
    nodes = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.ImportFrom)]
    for node in nodes:
        if (node.module or "").partition(".")[0] == "foveate":
            module = importlib.import_module(node.module or "")
            gone = [a.name for a in node.names if not hasattr(module, a.name)]
            assert [n for n in gone if importlib.util.find_spec(f"{node.module}.{n}") is None] == [], node.module


def test_every_script_is_named_where_a_reader_looks_for_it() -> None:
    started = [p.name for p in SCRIPTS if "__main__" in p.read_text(encoding="utf-8")]
    assert len(started) > 30
    assert [name for name in started if f"`{name}`" not in REPRODUCE] == []


def test_every_result_is_named_beside_its_script() -> None:
    table = "\n".join(line for line in REPRODUCE.splitlines() if line.startswith("| "))
    found = sorted(p.stem for p in (ROOT / "benchmarks" / "results").glob("*.json"))
    assert [name for name in found if not re.search(rf"[ ,]{re.escape(name)}[ ,]", table)] == []


def _options(path: Path) -> set[str]:
    calls = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)]
    words = [a for n in calls if getattr(n.func, "attr", "") == "add_argument" for a in n.args]
    return {w.value for w in words if isinstance(w, ast.Constant)}


def _commands(group: Any, name: str = "") -> dict[str, set[str]]:
    """Every command's options; a group has those of its commands too."""
    own = {o for p in group.params for o in (*p.opts, *p.secondary_opts)}
    found: dict[str, set[str]] = {}
    for part, command in getattr(group, "commands", {}).items():
        found |= _commands(command, f"{name} {part}".strip())
    return {name: own.union(*found.values()), **found}


def _texts() -> Iterator[tuple[str, str]]:
    """Pages, and the docstrings that are read by --help, each command in one line."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "instruments").rglob("*.md")]
    for path in pages:
        yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
    for path in [*SCRIPTS, *(ROOT / "instruments").rglob("*.py")]:
        yield str(path.relative_to(ROOT)), ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def test_every_command_line_that_is_written_down_has_options_that_exist() -> None:
    known, wrong, seen = _commands(typer.main.get_command(app)), [], 0
    for where, text in _texts():
        # A command goes on behind a backslash, in an indented line, or where a page breaks the line inside backticks.
        text = re.sub(r"\\?\n[ ]*(?=--)", " ", text)
        for script, rest in re.findall(r"python benchmarks/(\w+)\.py([^`#\n]*)", text):
            path, seen = ROOT / "benchmarks" / f"{script}.py", seen + 1
            assert path.is_file(), f"{where}: there is no {path.name}"
            mine = _options(path)
            wrong += [f"{where}: {script}.py {o}" for o in _named(rest.partition(" -- ")[0]) if o not in mine]
        for name, rest in re.findall(r"foveate ((?:search )?[a-z]+)\b([^`#\n&]*)", text):
            if name in known and name != "serve":  # which passes on what is vLLM's
                seen += 1
                wrong += [f"{where}: foveate {name} {o}" for o in _named(rest) if o not in known[name]]
    assert seen > 100
    assert wrong == []


def _named(words: str) -> list[str]:
    return [o for o in re.findall(r"(?<![\w=-])--[a-z][\w-]*", words) if o != "--help"]
