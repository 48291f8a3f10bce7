"""Find a plan on your own examples, and use its file: python examples/searched_plan.py MODEL DATA.jsonl PLAN PICTURE.

The same as `foveate search psigmoid --keep 0.25`, in Python. Stopped and started again, it goes on.
"""

import sys
from pathlib import Path

from foveate import Plan, data, files, images
from foveate.engines import hf
from foveate.search.halves import split
from foveate.search.schedules import Effort, find_slope
from foveate.search.session import Session
from foveate.search.study import Study

model_name, examples, file, picture = sys.argv[1:]
engine = hf.load(model_name)

# One half of the data is searched on, the other one judges: the plan file says what it promises.
study = Study(f"{file}.study", "search", {"model": model_name, "data": examples})
session = Session(engine, split(data.load(examples)), "agreement", study, max_new_tokens=8)
plan = find_slope(session, 0.25, effort=Effort(trials=2))  # more trials find better plans
files.write(file, plan.to_json().encode())

plan = Plan.from_json(Path(file).read_text())
print(plan.note)
answer = hf.ask(engine, [images.load(picture)], "what is in this picture?", plan, max_new_tokens=16)
print(answer.text, answer.report, sep="\n")
