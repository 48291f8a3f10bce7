"""What each method costs on a 0.5B-class LLaVA shape, part by part, beside its oracle; small enough for one CPU core.

    python benchmarks/cost.py [--method divprune,fastv] [--keep 0.333,0.111] [--batch-sizes 1,4] [--lengths 1,16]

Weights are random: the shape sets the time. Every cell of batch size and answer length is written when it is done, and
not measured again by the same command.
"""

import argparse
from pathlib import Path

import torch

from measuring import arguments, measure

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments(parser, shape="llava-0.5b", method="fastervlm,divprune,fastv,pyramiddrop,tops", keep="0.333,0.111",
          batch_sizes="1,4", lengths="1,16", repeats=7)  # fmt: skip
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
parser.add_argument("--out", type=Path, default=Path("benchmarks/results/cost.json"))

if __name__ == "__main__":
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    measure(args, "cpu", getattr(torch, args.dtype), args.out)
