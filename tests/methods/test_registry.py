"""Methods from outside: an installed package's entry points, and any module:function."""

import json
import pickle
import sys

import pytest
import torch
from click.testing import CliRunner
from typer.main import get_command

from foveate import Cut, Plan, PlanError, attach
from foveate.cli import app, choose
from foveate.methods import METHODS, find, method
from foveate.methods.registry import names
from foveate.methods.switches import merged
from foveate.methods.uniform import Uniform
from zoo import Row, batch, shared

TOY = '''
"""Keep the tokens of largest norm: a toy."""

from dataclasses import dataclass
from typing import ClassVar

from foveate import Cut, Plan, Selection


@dataclass(frozen=True)
class Longest:
    power: float = 2.0

    reads: ClassVar[frozenset[str]] = frozenset({"hidden_BND"})
    adaptive: ClassVar[bool] = False

    def __call__(self, view, k):
        return Selection.top(view.need("hidden_BND").float().norm(dim=-1) ** self.power, k)


def longest(keep, power=2.0):
    """Longest: a toy."""
    return Plan((Cut("input", Longest(power), keep),))


no_function = 3


def no_plan(keep):
    return keep
'''


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package in a folder of its own, as pip leaves one there."""
    (tmp_path / "toy_pruner.py").write_text(TOY)
    info = tmp_path / "toy_pruner-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-pruner\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[foveate.methods]\nlongest = toy_pruner:longest\nfastv = toy_pruner:no\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("foveate.plan_text._trusted", set())
    yield
    sys.modules.pop("toy_pruner", None)


def listed():
    return json.loads(CliRunner().invoke(get_command(app), ["list", "--json"]).stdout)["methods"]


def test_without_it_it_is_unknown():
    with pytest.raises(PlanError, match="longest"):
        method("longest", keep=0.5)
    assert "longest" not in names()


@pytest.mark.usefixtures("installed")
def test_it_is_found_by_name_everywhere():
    plan = method("longest", keep=0.5, power=1.0)
    assert plan.cuts[0].select.power == 1.0 and plan == choose.build("longest", "0.5", {"power": 1.0}, 32)
    assert find("fastv") is METHODS["fastv"], "what Foveate has itself cannot be taken over"
    entry = listed()["longest"]
    assert entry["origin"] == "toy_pruner" and entry["reads"] == ["hidden_BND"] and entry["settings"] == {"power": 2.0}
    with pytest.raises(PlanError, match="did you mean 'power'"):
        method("longest", keep=0.5, pover=1.0)


@pytest.mark.usefixtures("installed")
def test_it_prunes_and_its_plan_is_text():
    plan = method("longest", keep=4)
    model, b = shared("llava"), batch("llava", [Row([3, ("image", (24, 24)), 9], 1)])
    with torch.no_grad(), attach(model, Plan.from_json(plan.to_json())) as attached:
        model(**b.inputs)
    assert len(attached.report.images[0].cuts[0].kept) == 4


@pytest.mark.usefixtures("installed")
def test_a_plan_file_may_name_what_is_installed_and_nothing_else():
    text = method("longest", keep=4).to_json()
    assert Plan.from_json(text) == method("longest", keep=4)
    with pytest.raises(PlanError, match="subprocess"):
        Plan.from_json(text.replace("toy_pruner:Longest", "subprocess:Popen"))


def test_module_and_function(tmp_path, monkeypatch):
    (tmp_path / "my_pruner.py").write_text(TOY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("foveate.plan_text._trusted", set())
    assert choose.build("my_pruner:longest", "7", {}, 32).cuts[0].keep == 7
    for name, says in {
        "my_pruner:shortest": "no attribute",
        "no_such_module:longest": "cannot be imported",
        "my_pruner:no_function": "is a int",
        "my_pruner:": "cannot be imported",
    }.items():
        with pytest.raises(PlanError, match=says):
            find(name)
    with pytest.raises(PlanError, match="returned a float"):
        method("my_pruner:no_plan", keep=0.5)
    sys.modules.pop("my_pruner", None)


WRONG = [
    ("mmtok", {"alpha": float("nan")}), ("mmtok", {"alpha": -1.0}), ("scope", {"alpha": float("inf")}),
    ("scope", {"alpha": -1.0}), ("holov", {"beta": float("nan")}), ("anchorprune", {"tau": float("nan")}),
    ("anchorprune", {"least": -1}), ("anchorprune", {"patience": 1.5}), ("eadp", {"beta": -1.0}),
    ("trim", {"rest": "no"}), ("random", {"seed": "a"}), ("prumerge", {"plus": "yes"}), ("priortr", {"eps": -1.0}),
    ("fastv", {"layer": "2"}), ("fastv", {"scoring": "x"}), ("divprune", {"distance": "a"}), ("tops", {"layers": 5}),
    ("tops", {"depth": 0}), ("feather", {"layers": (3,)}), ("clse", {"layers": (1, 2)}), ("sms", {"score": "x"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), WRONG, ids=str)
def test_wrong_values_are_refused_by_the_functions_too(name, options):
    """Those who call the function get the sentence that those get who name it on a command line."""
    (option,) = options
    with pytest.raises(PlanError, match=f"{option} (is|are) "):
        METHODS[name](0.5, **options)


def test_what_is_no_plan_and_a_class_of_selectors_are_named():
    for plan in (None, METHODS["divprune"]):
        with pytest.raises(PlanError, match=r"plan is .* it must be Plan"):
            merged(plan)
    with pytest.raises(PlanError, match="Uniform is a class of selectors"):
        Cut("input", Uniform, 0.5)
    assert pickle.loads(pickle.dumps(METHODS["fastv"])) is METHODS["fastv"]


@pytest.mark.parametrize("name", [None, 3, ["divprune"], METHODS["divprune"]])
def test_what_is_no_name_is_a_sentence(name):
    with pytest.raises(PlanError, match="named by text"):
        method(name, keep=0.5)
