"""A selector's folder may come from anyone: what cannot be one is named before anything is built."""

import json
import shutil

import pytest
import torch

from foveate import FoveateError, ModelError, PlanError
from foveate.methods import METHODS
from foveate.pointer import OneShotConfig, OneShotSelector, PointerConfig, PointerSelector, saved


def folder_of(tmp_path, **changes):
    """A shipped selector's folder with another config."""
    to = tmp_path / "selector"
    shutil.copytree(saved.SHIPPED / saved.names()[0], to)
    config = json.loads((to / "config.json").read_text()) | changes
    (to / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v != "gone"}))
    return to


@pytest.mark.parametrize(
    ("changes", "say"),
    [
        ({"width": 10**9}, "width is 1,000,000,000; no selector has more than"),
        ({"features": "256"}, "features is '256'; it must be a whole number"),
        ({"blocks": True}, "blocks is True"),
        ({"stop_bias": float("inf")}, "Infinity is no number"),
        ({"budget": "much"}, "budget is 'much'"),
        ({"colour": 1}, "other settings"),
        ({"features": "gone"}, "features"),
    ],
)
def test_a_config_that_cannot_be_is_refused_before_anything_is_built(tmp_path, monkeypatch, changes, say):
    def build(*_, **__):
        raise AssertionError("weights were made")

    monkeypatch.setattr(torch.nn.Linear, "__init__", build)
    with pytest.raises(ModelError, match=say):
        PointerSelector.from_pretrained(folder_of(tmp_path, **changes))


def test_a_folder_of_another_kind_is_named(tmp_path):
    OneShotSelector(OneShotConfig(8, 0.5, width=8, heads=1)).save_pretrained(tmp_path / "o")
    with pytest.raises(ModelError, match="is no PointerSelector: it is a OneShotSelector"):
        METHODS["sts"](0.5, path=str(tmp_path / "o"))


def test_spoilt_weights_are_refused(tmp_path):
    select = PointerSelector(PointerConfig(8, 0.5, width=8, heads=1, likeness=4))
    with torch.no_grad():
        next(select.parameters()).view(-1)[0] = float("nan")
    select.save_pretrained(tmp_path / "s")
    with pytest.raises(ModelError, match="hold NaN"):
        PointerSelector.from_pretrained(tmp_path / "s")


def test_a_dot_is_the_folder_one_stands_in(tmp_path, monkeypatch):
    monkeypatch.chdir(folder_of(tmp_path))
    assert PointerSelector.from_pretrained(".").saved == str(tmp_path / "selector")


def test_a_file_takes_no_selector(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FoveateError, match="cannot make the folder"):
        PointerSelector(PointerConfig(8, 0.5, width=8, heads=1, likeness=4)).save_pretrained(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("options", [{"path": 5}, {"stop_bias": "x"}, {"stop_bias": float("nan")}])
def test_options_of_the_wrong_kind(options):
    with pytest.raises(PlanError, match=r"(path|stop_bias) is "):
        METHODS["sts"](0.5, **options)
