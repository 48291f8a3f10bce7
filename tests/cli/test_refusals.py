"""What types refuse, as `foveate list` shows it: data for programs, a line each for people."""

import json

from typer.testing import CliRunner

from foveate.cli import app
from foveate.hf.plan_checks import WHY


def test_refusals_are_data_with_cut_reading_and_rule():
    told = CliRunner().invoke(app, ["list", "--json"]).stdout
    data = json.loads(told[told.index("{") :])
    types = data["types"]
    assert data["why"] == WHY
    hybrid = {(r["cut"], tuple(r["reads"]), r["rule"]) for r in types["qwen3_5"]["refused"]}
    assert ("linear_attention layers", ("prior_attn_BN", "text_attn_BN", "text_rows_BRN"), "attends not") in hybrid
    assert ("any", ("cls_cos_BN",), "cls") in hybrid
    assert {"encoder"} == {r["cut"] for r in types["aria"]["refused"] if r["rule"] == "tower" and not r["reads"]}
    assert types["llava"]["refused"] == [] and types["mllama"]["refused"] == []
    assert all(r["rule"] in WHY for m in types.values() for r in m["refused"])


def test_refusals_are_said_with_the_types_that_refuse():
    told = " ".join(CliRunner().invoke(app, ["list"]).stdout.split())
    assert "Refused at attach" in told
    assert (
        "a cut at conv layers with prior_attn_BN, text_attn_BN, text_rows_BRN: these layers have no attention" in told
    )
    assert "(internvl)" in told
