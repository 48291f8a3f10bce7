"""Peak memory of the greedy kernels above the features, one process each, at lengths where N x N would be gigabytes.

    python benchmarks/kernel_memory.py [--tokens 32768] [--keep 1000] [--width 256]

Residual, suppress and (from a start) farthest read k rows of similarities and build no matrix; nor does farthest
without a start, which goes over all pairs once for its first token. Coverage reads all pairs and is left out.
"""

import argparse
import resource
import subprocess
import sys
import time

import torch

from foveate.ops.farthest import farthest
from foveate.ops.residual import residual
from foveate.ops.suppress import suppress

KERNELS = {
    "farthest": lambda x, w, k: farthest(x, k),
    "farthest from a start": lambda x, w, k: farthest(x, k, start_BS=w.argmax(1, keepdim=True)),
    "residual": lambda x, w, k: residual(x, k),
    "suppress": lambda x, w, k: suppress(x, w, k, soften="square"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--keep", type=int, default=1000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--only", help="one kernel, in this process")
    args = parser.parse_args()
    if not args.only:
        for name in KERNELS:
            subprocess.run([sys.executable, __file__, *sys.argv[1:], "--only", name], check=True)
        return
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)
    x, w = torch.randn(1, args.tokens, args.width, generator=g), torch.rand(1, args.tokens, generator=g)
    kernel = KERNELS[args.only]
    kernel(x[:, :64], w[:, :64], 8)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    kernel(x, w, args.keep)
    spent, after = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    mine, pairs = x.numel() * 4 / 2**20, args.tokens**2 * 4 / 2**20
    what = f"{(after - before) / 1024:.0f} MiB above the features' {mine:.0f} ({pairs:.0f} for N x N)"
    print(f"{args.only}: {what}, {spent:.1f} s CPU")


if __name__ == "__main__":
    main()
