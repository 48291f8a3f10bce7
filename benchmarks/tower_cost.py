"""What ToMe spares a tower by merging between its layers, beside merging behind it: CLIP of LLaVA-1.5, random weights.

    python benchmarks/tower_cost.py [--rounds 3]

One picture of 336 pixels, 576 patches, features of the last layer but one; the language model is next to nothing. FLOPs
as torch counts them, matrix products only; CPU time of this process, all ways in turns, medians. Both as shares of the
tower and projector as they are.
"""

import argparse
import time
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText, CLIPVisionConfig, LlamaConfig, LlavaConfig

from foveate import Plan, attach
from foveate.methods import METHODS

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--rounds", type=int, default=3)
KEEPS = {"22.2%": 128, "11.1%": 64}


def model() -> torch.nn.Module:
    """The tower and projector of LLaVA-1.5-7B before a small decoder."""
    tower = CLIPVisionConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
                             image_size=336, patch_size=14)  # fmt: skip
    text = LlamaConfig(vocab_size=128, hidden_size=512, intermediate_size=512, num_hidden_layers=1,
                       num_attention_heads=4, num_key_value_heads=4)  # fmt: skip
    config = LlavaConfig(vision_config=tower, text_config=text, image_token_id=3)
    return AutoModelForImageTextToText.from_config(config).eval()


@torch.inference_mode()
def main() -> None:
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    llava, pixels = model(), torch.randn(1, 3, 336, 336)
    plans: dict[str, Plan] = {"as it is": METHODS["tome"](1.0)}
    for name, k in KEEPS.items():
        plans[f"behind, {name}"] = METHODS["tome"](k)
        plans[f"between, {name}"] = METHODS["tome"](k, at="tower")
    flops: dict[str, int] = {}
    seconds: dict[str, list[float]] = {name: [] for name in plans}
    for number in range(args.rounds + 1):
        for name, plan in plans.items():
            with attach(llava, plan) as attached:
                if not number:
                    with FlopCounterMode(display=False) as counter:
                        attached.base.get_image_features(pixels)
                    flops[name] = counter.get_total_flops()
                    continue
                start = time.process_time()
                attached.base.get_image_features(pixels)
                seconds[name].append(time.process_time() - start)
    for name in plans:
        share = median(seconds[name]) / median(seconds["as it is"])
        print(f"{name}: {flops[name] / flops['as it is']:.2f} of the FLOPs, {share:.2f} of the CPU time")


if __name__ == "__main__":
    main()
