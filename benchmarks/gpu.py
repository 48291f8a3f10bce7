"""The same on a GPU: LLaVA-1.5-7B and Qwen2.5-VL-7B shapes, random weights, bfloat16. Writes result files to commit.

    python benchmarks/gpu.py                                  # both shapes, about 16 GiB of weights each
    python benchmarks/gpu.py --shape llava-smoke --device cpu --out out/smoke   # does the script run at all?

NOT YET RUN ON A GPU. The smoke shapes were run on a CPU, which tests the script and says nothing about its figures.
One file a shape: benchmarks/results/gpu-SHAPE-NAME_OF_THE_GPU.json. Cells that are in it are not measured again.
"""

import argparse
from pathlib import Path

import torch

from measuring import arguments, measure

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments(parser, shape="llava-1.5-7b,qwen2.5-vl-7b", method="fastervlm,divprune,fastv,pyramiddrop,tops",
          keep="0.333,0.222,0.111", batch_sizes="1,8,32", lengths="1,32,256", repeats=11)  # fmt: skip
parser.add_argument("--device", default="cuda")
parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="a folder")

if __name__ == "__main__":
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("there is no GPU here; --shape llava-smoke,qwen-smoke --device cpu tries the script")
    card = torch.cuda.get_device_name(args.device).replace(" ", "-") if args.device.startswith("cuda") else "cpu"
    for shape in args.shape.split(","):
        measure(argparse.Namespace(**vars(args) | {"shape": shape}), args.device, torch.bfloat16,
                args.out / f"gpu-{shape}-{card}.json")  # fmt: skip
