"""What attaching costs beside the stock model, now and in an older commit: ratios within one process, in turns.

    git worktree add --detach /somewhere COMMIT
    python benchmarks/before.py /somewhere --rounds 6

Every child process times the stock model, a plan that keeps all and a cut at the input on one random LLaVA, in turns,
in CPU seconds; what is said of a version is the median of its ratios to the stock model.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parents[1]
WAYS = {"keeps all": 1.0, "cut at the input to a quarter": 0.25}


def model() -> tuple[Any, dict[str, Any]]:
    """A random LLaVA of eight layers with 576 visual tokens, and a prompt."""
    import torch
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    tower = CLIPVisionConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
                             image_size=96, patch_size=4, projection_dim=32)  # fmt: skip
    text = LlamaConfig(vocab_size=200, hidden_size=256, intermediate_size=512, num_hidden_layers=8,
                       num_attention_heads=8, num_key_value_heads=4,
                       bos_token_id=1, eos_token_id=2, pad_token_id=0)  # fmt: skip
    torch.manual_seed(0)
    made = LlavaForConditionalGeneration(LlavaConfig(vision_config=tower, text_config=text, image_token_id=190)).eval()
    made.generation_config.eos_token_id = None
    ids = torch.cat((torch.randint(3, 180, (1, 8)), torch.full((1, 576), 190), torch.randint(3, 180, (1, 24))), 1)
    return made, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": torch.randn(1, 3, 96, 96)}


def measure(repeats: int) -> dict[str, float]:
    """Ratios to the stock model: of a prefill, and of it with 16 more tokens."""
    import torch

    from foveate import attach
    from foveate.methods import METHODS

    made, inputs = model()

    def seconds(tokens: int) -> float:
        begin = time.process_time()
        with torch.no_grad():
            made.generate(**inputs, max_new_tokens=tokens, do_sample=False)
        return time.process_time() - begin

    found: dict[str, list[float]] = {}
    for turn in range(repeats + 1):
        for tokens in (1, 17):
            stock = seconds(tokens)
            for way, keep in WAYS.items():
                with attach(made, METHODS["uniform"](keep=keep)):
                    seconds(tokens) if turn == 0 else None
                    ratio = seconds(tokens) / stock
                if turn:
                    found.setdefault(f"{way}, {tokens - 1} more tokens", []).append(ratio)
    return {name: median(ratios) for name, ratios in found.items()}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="a worktree of the older commit")
    parser.add_argument("--rounds", type=int, default=6, help="processes of each version, in turns")
    parser.add_argument("--repeats", type=int, default=9, help="timings within a process")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.repeats)))
        return
    found: dict[str, list[dict[str, float]]] = {"before": [], "now": []}
    for _ in range(args.rounds):
        for version, root in (("before", args.before), ("now", HERE)):
            env = os.environ | {"PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1"}
            command = [sys.executable, __file__, str(args.before), "--child", "--repeats", str(args.repeats)]
            out = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
            found[version].append(json.loads(out.splitlines()[-1]))
    for name in found["now"][0]:
        line = [f"{v} {median(x := [r[name] for r in found[v]]):.3f} ({min(x):.3f} to {max(x):.3f})" for v in found]
        print(f"{name}: {'; '.join(line)}", flush=True)


if __name__ == "__main__":
    main()
