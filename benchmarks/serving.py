"""A vLLM server under load, stock and with the plugin: runs `foveate bench --engine vllm`, and prints a table.

    .venv-vllm/bin/python benchmarks/serving.py                  # measure, six minutes on two cores, and print
    .venv-vllm/bin/python benchmarks/serving.py --only-print     # print what was measured
    .venv-vllm/bin/python benchmarks/serving.py --add load.json  # pool the rounds of another such run with it

serving_all.json: what keeping everything costs, in rounds so small that other work on the machine meets both servers:
`COMMAND` with --keep 16 --concurrency 4 --pairs 40 --per-round 8, its load.json.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from foveate.bench import load

RESULTS = Path(__file__).parent / "results" / "serving.json"
COMMAND = [
    "bench", "--engine", "vllm", "--model", "tiny", "--task", "tiny", "--method", "divprune", "--keep", "64,16",
    "--concurrency", "1,4,16", "--pairs", "9", "--per-round", "16", "--vllm=--dtype=float32",
    "--vllm=--max-model-len=1024", "--vllm=--block-size=32", "--vllm=--enforce-eager",
    "--vllm=--kv-cache-memory-bytes=1073741824",
]  # fmt: skip
FIELDS = {"requests_s": "requests/s", "first_s": "first token", "cpu_s": "CPU time"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only-print", action="store_true")
    parser.add_argument("--add", type=Path, metavar="load.json")
    asked = parser.parse_args()
    if asked.add:
        old, new = (json.loads(file.read_text()) for file in (RESULTS, asked.add))
        rounds = [load.Round(**r) for r in old["rounds"] + new["rounds"]]
        RESULTS.write_text(json.dumps(old | load.to_dict(rounds, old["base"]), indent=1))
    elif not asked.only_print:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, "-m", "foveate.cli", *COMMAND, "--out", folder], check=True)
            RESULTS.write_text((Path(folder) / "load.json").read_text())
    found = json.loads(RESULTS.read_text())
    print("| way | clients |", " | ".join(FIELDS.values()), "|")
    print("|---|---|" + "---|" * len(FIELDS))
    rows = [r for r in found["ratios"] if r["arm"] != found["base"]]
    for row in sorted(rows, key=lambda r: -r["prompt_tokens"] // 10):
        cells = [row["arm"], str(row["concurrency"])]
        for field in FIELDS:
            low, high = row[f"{field}_interval"]
            cells.append(f"{row[f'{field}_ratio']:.2f} ({low:.2f}-{high:.2f})")
        print("|", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
