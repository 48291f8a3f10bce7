"""Two finished benchmarks side by side: the same task, way and question in both are compared as pairs."""

from pathlib import Path
from typing import Any

from foveate import files
from foveate.bench import run
from foveate.bench.statistics import compare as paired
from foveate.bench.statistics import holm
from foveate.errors import FoveateError, short

_MATTERS = ("model", "weights", "device", "dtype", "batch size", "seed", "torch", "transformers")


def compare(a: Path, b: Path) -> dict[str, Any]:
    """B against A as plain data.

    Args:
        a, b: folders of finished benchmarks, or their results.json.

    Raises:
        FoveateError: one is no finished benchmark, or they have no task and way in common.
    """
    one, two = read(a), read(b)
    try:
        return _compare(a, b, one, two)
    except (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError) as e:
        if isinstance(e, FoveateError):
            raise
        raise FoveateError(
            f"{a} or {b} does not hold what foveate bench writes ({type(e).__name__}: {short(str(e))}); run it again"
        ) from None


def _compare(a: Path, b: Path, one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    both = [(_key(r), r) for r in one["quality"]["rows"]]
    other = {_key(r): r for r in two["quality"]["rows"]}
    rows = [_row(k, r, other[k], one, two) for k, r in both if k in other]
    if not rows:
        raise FoveateError(f"{a} and {b} have no task and method at the same keep in common; nothing can be compared")
    found = [r["paired"] for r in rows if r["paired"] is not None]
    for each, p in zip(found, holm([f["p"] for f in found]), strict=True):
        each["p_holm"] = p
    mine = {k for k, _ in both}
    return {
        "a": {"name": str(a), "finished": one["finished"], "commit": one["environment"]["commit"]},
        "b": {"name": str(b), "finished": two["finished"], "commit": two["environment"]["commit"]},
        "differences": _differences(one, two),
        "rows": rows,
        "only": sorted(" ".join(k) for k in mine ^ other.keys()),
    }


def read(path: Path) -> dict[str, Any]:
    """The results of a folder or a file.

    Raises:
        FoveateError: there are none, or another version wrote them.
    """
    path = files.place(path)
    if not path.exists():
        raise FoveateError(f"there is no folder {path}; name the --out of a finished benchmark")
    file = path / run.RESULTS if path.is_dir() else path
    if not file.exists():
        raise FoveateError(
            f"{path} holds no finished benchmark: there is no {file.name}; run foveate bench --out {path}"
        )
    data = run.read_json(file)
    if data.get("foveate_bench") != run.VERSION:
        raise FoveateError(f"{file} is no result of this version of foveate bench")
    return data


def _key(row: dict[str, Any]) -> tuple[str, str]:
    return row["task"], row["way"]


def _row(
    key: tuple[str, str], r: dict[str, Any], s: dict[str, Any], one: dict[str, Any], two: dict[str, Any]
) -> dict[str, Any]:
    task, way = key
    x, y = _scores(one, task, way), _scores(two, task, way)
    ids = [i for i in x if i in y]
    return {
        "task": task,
        "method": r["method"],
        "keep": r["keep"],
        "a": r["accuracy"],
        "b": s["accuracy"],
        "questions": len(ids),
        "paired": paired([y[i] for i in ids], [x[i] for i in ids]).to_dict() if ids else None,
        "a_seconds": _seconds(one, way),
        "b_seconds": _seconds(two, way),
    }


def _scores(data: dict[str, Any], task: str, way: str) -> dict[tuple[str, str], float]:
    """Scores by example; the question is part of the key, so that another task of that name is not mistaken for it."""
    samples = data["samples"][task]
    pairs = zip(samples["ids"], samples["questions"], samples["ways"][way]["scores"], strict=True)
    return {(i, q): s for i, q, s in pairs if s is not None}


def _seconds(data: dict[str, Any], way: str) -> float | None:
    rows = data["cost"][0]["rows"] if data["cost"] else []
    found = [r["seconds"]["first_token"]["median"] for r in rows if r["way"] == way and "seconds" in r]
    return found[0] if found else None


def _differences(one: dict[str, Any], two: dict[str, Any]) -> list[str]:
    """What must be the same for a difference to be the method's, and is not."""
    a, b = one["config"], two["config"]
    lines = [f"{name}: {a.get(name)} and {b.get(name)}" for name in _MATTERS if a.get(name) != b.get(name)]
    plans = [{w["id"]: w["plan"] for w in c["ways"]} for c in (a, b)]
    return lines + [f"the plan of {i}" for i in plans[0] if i in plans[1] and plans[0][i] != plans[1][i]]
