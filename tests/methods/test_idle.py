"""A setting that nothing would read is refused by every method, and read where the message says it is."""

import inspect

import pytest

from foveate.errors import PlanError
from foveate.methods import METHODS, method

IDLE = [
    ("sparsevlm", {}, {"lam": 0.3}, {"count": "rank"}),
    ("tome", {}, {"proportional": False}, {"at": "tower"}),
    ("tome", {"at": "input"}, {"proportional": False}, {"at": "tower"}),
    ("tome", {"at": "tower"}, {"rounds": 3}, {"at": "input"}),
    ("sfpruner", {}, {"alpha": 0.3}, {"text_tower": "a"}),
    ("sfpruner", {}, {"tau": 10.0}, {"text_tower": "a"}),
    ("sms", {}, {"sign": -1}, {"score": "cosine"}),
    ("sms", {}, {"sign_inside": -1}, {"correlation": "similarity"}),
    ("sms", {"correlation": "similarity"}, {"raters": "last"}, {"correlation": "attention"}),
    ("sms", {"correlation": "similarity"}, {"attention": "own"}, {"correlation": "attention"}),
    ("sms", {"stages": 1}, {"layers": (0.25,)}, {"stages": 2}),
    ("sms", {"stages": 1}, {"image": 0.5}, {"stages": 2}),
    ("sms", {"stages": 1}, {"text": 0.5}, {"stages": 2}),
    ("sms", {"stages": 1}, {"c_inside": 2.0}, {"stages": 2}),
    ("sms", {"stages": 1}, {"correlation": "similarity"}, {"stages": 2}),
    ("sms", {"stages": 1}, {"raters": "last"}, {"stages": 2}),
    ("sms", {"stages": 2}, {"c": 2.0}, {"stages": 1}),
    ("sms", {"stages": 2}, {"least": 3}, {"stages": 1}),
    ("sms", {"stages": 2}, {"score": "cosine"}, {"stages": 1}),
    ("sms", {"stages": 2}, {"quantile": 0.9}, {"stages": 2, "c_inside": 2.0}),
    ("tops", {"stages": 1}, {"schedule": "internvl3-8b"}, {"stages": "both"}),
    ("tops", {"stages": 1}, {"layers": (1, 3)}, {"stages": "both"}),
    ("tops", {"stages": 1}, {"budget": "table"}, {"stages": "both"}),
    ("tops", {"stages": 1}, {"alpha_inside": 0.1}, {"stages": "both"}),
    ("tops", {"stages": 1}, {"lam_inside": 0.1}, {"stages": "both"}),
    ("tops", {"stages": 1}, {"transform_inside": "log"}, {"stages": "both"}),
    ("tops", {"stages": 1}, {"raters": "last"}, {"stages": "both"}),
    ("tops", {"stages": 1}, {"attention": "own"}, {"stages": "both"}),
    ("tops", {"stages": 2}, {"alpha": 0.1}, {"stages": "both"}),
    ("tops", {"stages": 2}, {"lam": 0.1}, {"stages": "both"}),
    ("tops", {"stages": 2, "transform_inside": "log"}, {"transform": "none"}, {"stages": "both"}),
    ("tops", {}, {"clip": 0.5}, {"transform": "clip"}),
    ("tops", {}, {"clip": 0.5}, {"transform_inside": "clip"}),
    ("psigmoid", {}, {"text": 20}, None),
    ("psigmoid", {"keep": 40}, {"top": 0.4}, {"keep": 100, "tokens": 576, "depth": 10}),
]
"""(method, the others, what they make idle, what makes a difference of it)"""


@pytest.mark.parametrize(("name", "others", "idle", "read"), IDLE, ids=str)
def test_a_setting_without_effect_is_refused_and_one_with_effect_is_not(name, others, idle, read):
    plan = lambda *settings: method(name, **{"keep": 0.5} | {k: v for s in settings for k, v in s.items()})  # noqa: E731
    (given,) = idle
    plan(others)
    usual = inspect.signature(METHODS[name]).parameters[given].default
    assert plan(others, {given: usual}) == plan(others)
    with pytest.raises(PlanError, match=rf"{given}(=| is )"):
        plan(others, idle)
    if read is not None:
        assert plan(others, read, idle) != plan(others, read)
