"""What can be read off a method: its idea, paper and kernel, reads and cost, and whether it hears the question.

Nothing here is written by hand for one method: it comes from the module's docstring and imports, from the plan that the
method makes, and from what families say they give.
"""

import ast
import inspect
import re
from dataclasses import asdict, dataclass
from typing import Any

from foveate.cli import choose
from foveate.errors import FoveateError
from foveate.fields import ASKED
from foveate.hf.families import FAMILIES
from foveate.methods import registry
from foveate.plan import Plan
from foveate.servable import servable

DEPTH = 32
"""Decoder layers of the usual 7B model, for methods whose cuts depend on it."""
KERNELS = {
    "residual": ("residual", "N K D"),
    "farthest": ("farthest", "N² D; above 8,192 tokens N K D"),
    "coverage": ("coverage", "N² D"),
    "balance": ("balance", "N² D"),
    "suppress": ("peaks", "N² D"),
    "prior": ("prior", "N"),
    "bipartite": ("pairs", "N² D"),
    "cosine": ("likeness", "N² D"),
    "wording": ("words", "N T D"),
}
"""File in `foveate.ops` -> name, and cost on N tokens of width D, K kept, T words. The first imported one counts."""
PAPER = re.compile(r"arXiv (\d{4}\.\d{5})")


@dataclass(frozen=True)
class Entry:
    """One method, as `foveate list` and the catalogue show it."""

    about: str
    idea: str
    paper: str | None
    kernel: str
    cost: str
    reads: list[str]
    cuts: list[Any]
    adaptive: bool
    merges: bool
    asks: bool
    """Whether the kept set depends on the question: then the image's part of a cache cannot be shared by questions."""
    families: list[str]
    engines: list[str]
    """Which can carry the plan out as it is by default."""
    served: str
    """By vLLM: "yes", "no", or the setting under which it is."""
    settings: dict[str, Any]
    origin: str
    """"foveate", or the package or module that it comes from."""
    needs: str | None = None
    """Why no plan could be made without more settings."""


def entry(name: str) -> Entry:
    """What there is to say of a method.

    Raises:
        PlanError: there is no such method, or it cannot be imported.
    """
    function = registry.find(name)
    about = (inspect.getdoc(function) or "").splitlines()
    settings = {
        p.name: None if p.default is inspect.Parameter.empty else p.default
        for p in registry.parameters(name).values()
        if p.name not in ("keep", "depth")
    }
    plan, needs = None, None
    try:
        plan = choose.build(name, "0.25", {}, DEPTH)
    except FoveateError as e:  # a method that cannot be built without a setting is still listed
        needs = str(e)
    sources = _sources(function, plan)
    kernel, cost = next((KERNELS[k] for k in KERNELS if k in sources["ops"]), ("top-k", "N log N"))
    reads = plan.reads if plan else frozenset()
    own = function.__module__.split(".")[0]
    served = _served(plan, sources["merges"])
    if (
        served == "no"
        and "at" in settings
        and plan
        and _served(choose.build(name, "0.25", {"at": "input"}, DEPTH)) == "yes"
    ):
        served = 'at="input"'
    return Entry(
        about=about[0] if about else "",
        idea=sources["idea"],
        paper=sources["paper"],
        kernel=kernel,
        cost=cost,
        reads=sorted(reads),
        cuts=[c.at for c in plan.cuts] if plan else [],
        adaptive=any(c.select.adaptive for c in plan.cuts) if plan else False,
        merges=sources["merges"],
        asks=bool(reads & ASKED),
        families=[n for n, f in FAMILIES.items() if reads <= f.signals.keys() | {"text_BN"}] if plan else [],
        engines=["hf", *(["vllm"] if served == "yes" else [])],
        served=served,
        settings={k: v if isinstance(v, int | float | str | None) else repr(v) for k, v in settings.items()},
        origin=own,
        needs=needs,
    )


def as_dict(one: Entry) -> dict[str, Any]:
    """For JSON; what is not there is left out."""
    return {k: v for k, v in asdict(one).items() if v is not None}


def markdown(names: list[str]) -> str:
    """The catalogue as a page."""
    lines = [
        "# The methods",
        "",
        "Made by `foveate list --markdown`, not by hand. Which one to use: [choosing.md](choosing.md).",
        "",
        "*Asks*: what is kept depends on the question, so questions about one image cannot share its part of a",
        "prefix cache. *Cost*: of choosing among N tokens of width D, K kept, T words. *Merges*: dropped tokens live",
        "on in kept ones. *vLLM*: the plan can be served ([which models](../serving.md)); it takes one cut before",
        "the LLM. Families are those that give the signals. Cuts are for 32 decoder layers.",
        "",
        "| method | idea | paper | kernel | reads | cuts | adaptive | merges | asks | cost | vLLM | families |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in names:
        e = entry(name)
        paper = f"[{e.paper}](https://arxiv.org/abs/{e.paper})" if e.paper else "-"
        reads = ", ".join(f"`{r}`" for r in e.reads) or "-"
        cuts = places(e.cuts) or "-"
        families = "all" if len(e.families) == len(FAMILIES) else ", ".join(e.families) or "-"
        words = [yes(e.adaptive), yes(e.merges), yes(e.asks)]
        lines.append(
            f"| `{name}` | {e.idea} | {paper} | {e.kernel} | {reads} | {cuts} | {' | '.join(words)} | {e.cost} | "
            f"{e.served} | {families} |"
        )
    return "\n".join(lines) + "\n"


def _served(plan: Plan | None, merges: bool = False) -> str:
    """Whether a server takes a plan: not tokens merged before the projector, which its models give nobody."""
    merged_early = merges and plan is not None and plan.cuts[0].at == "encoder"
    return yes(plan is not None and not merged_early and servable(plan) is None)


def yes(value: bool) -> str:
    """A word for it."""
    return "yes" if value else "no"


def places(cuts: list[int | float | str]) -> str:
    """Where a plan cuts; a cut at every layer as a range."""
    first = cuts[0] if cuts else None
    if isinstance(first, int) and len(cuts) > 2 and cuts == list(range(first, first + len(cuts))):
        return f"{first}-{cuts[-1]}"
    return ", ".join(f"{c:.3g}" if isinstance(c, float) else str(c) for c in cuts)


def _sources(function: Any, plan: Plan | None) -> dict[str, Any]:
    """From the modules of a method's function and selectors: docstring, paper, imported ops, and whether it mixes."""
    kinds = [function, *(type(c.select) for c in (plan.cuts if plan else ()))]
    modules = list(dict.fromkeys(inspect.getmodule(k) for k in kinds))
    docs = inspect.getdoc(modules[0]) or ""
    ops: set[str] = set()
    merges = False
    for module in modules:
        try:
            source = inspect.getsource(module)  # type: ignore[arg-type]
        except (OSError, TypeError):
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("foveate.ops."):
                # Of `cosine` the matrix counts, not its helpers.
                file = (node.module or "").split(".")[2]
                ops |= {file} - ({"cosine"} if "Cosine" not in {a.name for a in node.names} else set())
            elif isinstance(node, ast.Name | ast.keyword):
                merges |= getattr(node, "id", getattr(node, "arg", None)) == "mix_BKN"
        merges |= bool(ops & {"merging", "pooling"})
    found = PAPER.search(docs)
    return {"idea": docs.split("\n")[0].rstrip("."), "paper": found and found[1], "ops": ops, "merges": merges}
