"""From "at most so much loss on my examples" to a plan file with its promise: what the page's third tab does."""

from collections.abc import Callable
from pathlib import Path

from foveate import data, files
from foveate.bench.compare import read
from foveate.bench.page import fronts
from foveate.engines import hf
from foveate.errors import FoveateError
from foveate.search import auto, promise
from foveate.search.halves import split
from foveate.search.session import Session
from foveate.search.study import Study

_BARE = "main {padding: 0} h2 {display: none}"
"""The page around the charts has their heading, and its own margins."""


def find(
    engine: hf.Engine,
    examples: str,
    max_loss: float,
    trials: int,
    folder: Path,
    watch: Callable[[float, float], None] = lambda loss, cost: None,
    step: Callable[[], None] = lambda: None,
) -> tuple[str, Path]:
    """What the plan promises, and its file.

    Args:
        engine: the model.
        examples: a JSONL file, or a folder that holds one.
        max_loss: allowed, a share of the answers.
        trials: plans to try.
        folder: for the study and the plan.
        watch: told loss and cost of each plan that is tried.
        step: called after every batch of questions.

    Raises:
        FoveateError: the examples are none, too few for this loss, or no plan that was tried loses so little.
    """
    promise.load_scipy()  # what is only needed at the end should be missed at the beginning
    if not examples.strip():
        raise FoveateError("there are no examples; name a JSONL file, or a folder that holds one")
    loaded = data.load(examples.strip(), labelled=True)
    halves = split(loaded, 0)
    promise.check_tolerance(max_loss, len(halves.search))
    study = Study(folder / "search.study", f"{engine.facts.source} {data.fingerprint(loaded)}", {"metric": "exact"})
    session = Session(engine, halves, "exact", study, progress=step, watch=watch)
    plan = auto.choose(session, auto.explore(session, trials), max_loss=max_loss)
    made = dict(plan.made or {})
    told = f"{made['claim']} Operations left of the visual tokens: {made['visual_flops']:.1%}."
    if not made["asked"]["proven"]:
        told = f"Not proven: the held-out half is too small, or too near the limit. {told}"
    return told, files.write(folder / "plan.json", (plan.to_json() + "\n").encode())


def tradeoff(folder: str) -> str:
    """The charts of a finished benchmark, as HTML that needs nothing else.

    Raises:
        FoveateError: there is none.
    """
    from importlib import resources

    style = resources.files("foveate.bench.page").joinpath("style.css").read_text(encoding="utf-8")
    charts = fronts.section(read(Path(folder)))
    return f"<style>{style}\n{_BARE}</style><main>{charts}</main>"
