"""Find a plan that vLLM can carry out, and serve with it: python examples/served_plan.py MODEL DATA.jsonl PLAN PICTURE.

Where the plan's file is there already nothing is searched, so one environment can search and another one serve.
`foveate serve MODEL --plan PLAN` starts a server with the same.
"""

import json
import sys
from pathlib import Path

from foveate import data, files, images
from foveate.engines import hf
from foveate.search import auto
from foveate.search.halves import split
from foveate.search.session import Session
from foveate.search.study import Study


def main(model: str, examples: str, file: str, picture: str) -> None:
    """Search where there is no plan yet, then ask vLLM about the picture."""
    if not Path(file).is_file():
        study = Study(f"{file}.study", "search", {"model": model, "data": examples})
        session = Session(hf.load(model), split(data.load(examples)), "agreement", study, max_new_tokens=8)
        tried = auto.explore(session, trials=2, near=0.25, served=True)  # more trials find better plans
        files.write(file, auto.choose(session, tried, budget=0.25).to_json().encode())
    plan = json.loads(Path(file).read_text())
    print(plan["note"])

    from vllm import LLM, SamplingParams

    llm = LLM(model, hf_overrides={"foveate": plan})
    content = [{"type": "image_pil", "image_pil": images.load(picture)}, {"type": "text", "text": "what is this?"}]
    (out,) = llm.chat([{"role": "user", "content": content}], SamplingParams(temperature=0, max_tokens=16))
    print(f"{out.outputs[0].text.strip()}  ({len(out.prompt_token_ids)} tokens of prompt)")


if __name__ == "__main__":  # vLLM starts processes of its own
    main(*sys.argv[1:])
