"""lmms-eval's side of the benchmark, on a task of its format that needs no network: `make test-lmms` runs this.

Skipped where lmms-eval is not installed: it has an environment of its own.
"""

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

pytest.importorskip("lmms_eval", reason="lmms-eval has an environment of its own: make test-lmms")

from foveate import FoveateError, Plan, samples
from foveate.bench import asking, quality, tasks
from foveate.bench.log import Log
from foveate.bench.ways import Way
from foveate.engines import hf
from foveate.engines.score import answer
from foveate.methods import METHODS

YAML = """
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
task: "embedded_scenes"
test_split: test
output_type: generate_until
doc_to_visual: !function utils.visual
doc_to_text: !function utils.text
doc_to_target: "answer"
generation_kwargs:
  max_new_tokens: 6
  until: ["\\n"]
process_results: !function utils.score
metric_list:
  - metric: scene_accuracy
    aggregation: !function utils.mean
    higher_is_better: true
lmms_eval_specific_kwargs:
  default:
    pre_prompt: ""
    post_prompt: ""
"""
UTILS = """
from PIL import Image

def visual(doc):
    return [Image.open(doc["image"]).convert("RGB")]

def text(doc, lmms_eval_specific_kwargs):
    return lmms_eval_specific_kwargs["pre_prompt"] + doc["question"]

def score(doc, results):
    right = results[0].strip().lower() == doc["answer"]
    return {"scene_accuracy": {"question_id": doc["question"], "score": 1.0 if right else 0.0}}

def mean(results):
    return sum(r["score"] for r in results) / len(results)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task of lmms-eval about the package's own samples; one picture is broken."""
    here = tmp_path_factory.mktemp("lmms") / "mine"
    here.mkdir()
    lines = [{"image": str(s.image), "question": s.question, "answer": s.answer} for s in samples.load()[:5]]
    (here / "data.json").write_text("\n".join(map(json.dumps, lines)))
    (here / "utils.py").write_text(UTILS)
    (here / "embedded_scenes.yaml").write_text(YAML.format(data=here / "data.json"))
    return here


@pytest.fixture(scope="module")
def task(folder: Path) -> Any:
    return tasks.load(f"lmms:{folder}/embedded_scenes")[0]


def test_a_task_of_its_format(task: Any) -> None:
    assert [e.question for e in task.examples] == [s.question for s in samples.load()[:5]]
    assert (task.metric, task.max_new_tokens) == ("scene_accuracy", 6)
    first = task.examples[0]
    assert first.pictures()[0].size == (192, 192)
    assert task.score(f"{first.answers[0]}\nand more", first) == 1
    assert task.score("nonsense", first) == 0


def test_asked_like_any_other(task: Any, tmp_path: Path) -> None:
    ways = [Way("full"), Way("random", "32", "plan", METHODS["random"](keep=32))]
    with Log(tmp_path / "s.jsonl") as log:
        list(asking.ask(hf.load(), task, ways, log, 2))
        rows = quality.figures([task], ways, log.records, "random")["rows"]
    assert rows[0]["accuracy"] == 1.0
    assert (rows[1]["n"], rows[1]["budget"]) == (5, 32)


def test_a_limit(folder: Path) -> None:
    assert len(tasks.load(f"lmms:{folder}/embedded_scenes", 2)[0].examples) == 2


def test_a_wrong_name(folder: Path) -> None:
    with pytest.raises(FoveateError, match="did you mean 'embedded_scenes'"):
        tasks.load(f"lmms:{folder}/embeded_scenes")
    with pytest.raises(FoveateError, match="no folder nowhere"):
        tasks.load("lmms:nowhere/a")


@pytest.mark.parametrize(
    ("options", "plan"),
    [
        ("", None),
        (",method=divprune,keep=64", METHODS["divprune"](keep=64)),
        (",method=fastv,keep=0.1,layer=3", METHODS["fastv"](keep=0.1, layer=3)),
    ],
)
def test_both_ways_give_one_figure(folder: Path, task: Any, options: str, plan: Plan | None) -> None:
    """Its own evaluator, which finds the model by name through the entry point, and the benchmark's task."""
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False, model_name="foveate")
    found = simple_evaluate(
        model="foveate", model_args=f"pretrained=tiny{options}", tasks=["embedded_scenes"], batch_size=2,
        task_manager=manager, device="cpu",
    )  # fmt: skip
    figures = {k.split(",")[0]: v for k, v in found["results"]["embedded_scenes"].items()}
    said = answer(hf.load(), task.examples, plan, 6)
    scores = [task.score(s.text, e) for s, e in zip(said, task.examples, strict=True)]
    assert figures["scene_accuracy"] == pytest.approx(fmean(scores))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"plan": "a.json", "method": "fastv"}, "already says"),
        ({"layer": 3}, "'layer'"),
        ({"method": "fastvv"}, "fastv"),
    ],
)
def test_wrong_arguments_are_found_before_a_model_is_loaded(arguments: dict[str, Any], says: str) -> None:
    from foveate.bench.lmms_model import FoveateModel

    with pytest.raises(FoveateError, match=says):
        FoveateModel(**arguments)
