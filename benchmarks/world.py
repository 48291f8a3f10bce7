"""Quality on the embedded world: every method at three keeps, on scenes of every tier, against the plain baselines.

    python benchmarks/world.py [--limit 500] [--out out/world] [--results benchmarks/results/world.json]

Takes up where it stopped. The whole benchmark, its report among it, is in --out; what the documentation quotes
(figures, without the single answers) is written to --results.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from foveate import files
from foveate.tiny.vocabulary import EVERY_TIER

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--limit", default="500", help="questions of each task")
parser.add_argument("--method", default="fastervlm,divprune,fastv,pyramiddrop,tops")
parser.add_argument("--keep", default="0.333,0.222,0.111,0.056")
parser.add_argument("--task", default=",".join(["tiny", *(f"tiny:{t}" for t in EVERY_TIER)]))
parser.add_argument("--out", type=Path, default=Path("out/world"))
parser.add_argument("--results", type=Path, default=Path("benchmarks/results/world.json"))
parser.add_argument("rest", nargs="*", help="more options of foveate bench, after --")

if __name__ == "__main__":
    args = parser.parse_args()
    words = ["--method", args.method, "--keep", args.keep, "--task", args.task, "--limit", args.limit]
    if "tops" in args.method.split(","):
        # [CLS] attention has a heavy tail here, for which TOPS wants the rank transform: see methods/tops.py.
        words += ["--set", "tops.transform=rank"]
    subprocess.run(
        [sys.executable, "-m", "foveate.cli", "bench", *words, "--out", str(args.out), *args.rest], check=True
    )
    results = json.loads((args.out / "results.json").read_text())
    del results["samples"]
    args.results.parent.mkdir(parents=True, exist_ok=True)
    files.write(args.results, (json.dumps(results, indent=1) + "\n").encode())
