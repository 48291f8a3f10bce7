"""`python -m instruments.qwen.card --checkpoint DIR`: the model card, from the curves and the measured results."""

from __future__ import annotations

from pathlib import Path

from instruments.llava.card import command, measured
from instruments.llava.course import Course
from instruments.llava.state import write_bytes
from instruments.qwen.recipe import RECIPE

_CARD = """\
# Foveate's second instrument

A Qwen2.5-VL in miniature, trained from nothing on the world of the first instrument by the code in
`instruments.qwen`. It exists so that a claim about methods that drop visual tokens need not rest on one anatomy. It
knows nothing of photographs.

| part | what it is |
|---|---|
| vision tower | Qwen2.5-VL's, 192 px, patch 8, 6 blocks of width 192, no [CLS], 2D RoPE and no other positions |
| | three blocks see windows of 8 x 8 patches, three the whole picture |
| merger | 2 x 2 patches to one of 12 x 12 = 144 visual tokens |
| decoder | Qwen2.5's, 10 layers of width 256, M-RoPE, tied embeddings |

It loads with `AutoModelForImageTextToText`, and with `AutoProcessor` where torchvision is installed; without it, by
`instruments.qwen.load` or as `--model` of any `foveate` command. Two numbers are not Qwen's: `rope_theta` is 100,000
and `mrope_section` is (2, 3, 27), so that 12 rows and columns turn some channels far enough to be told apart.

## Data

`{world}`: scenes drawn from SHA-256 of split and number. No image is stored; the first 24 test scenes with their
questions have the SHA-256 `{fingerprint}`. The training scenes are others than the first instrument's.

## Training

{stages}

Seed {seed}; Muon and AdamW; bfloat16 weights with a float32 master copy; two one-thread processes on a 2-core CPU that
had other work too. From `names` on the tower is frozen but for its merger. All 144 tokens are seen in every step of
every lesson: this model was never taught to expect fewer. In lessons that are "shown where to look" one head of layers
0, 1, 2, 4 and 7 is trained to look where the question's boxes are, and the image tokens' states after layer 1 to tell
their row and column.

{lineage}

## Held-out results

{questions} questions about {scenes} test scenes, all 144 tokens, greedy, accuracy in % with 95% intervals.

{accuracy}

With the wrong image: {wrong}. With the image hidden from the last third of the layers: {hidden}.

### Choices of visual tokens at the decoder's input

`fastervlm` stands for the highest attention received in the last block of the tower, since there is no [CLS]; `text`
for the best cosine with a word of the question.

{choices}

{unseen}

Area under the curve: attention received, things against the rest {cls_thing}, needed against the rest {cls_needed};
cosine with the question's words, needed against the rest {text_needed}.

## Limits

One training seed. Its merged tokens are large beside its things: 16 x 16 of 192 x 192 pixels, so that a small thing is
one token and crowded things share one.
"""
_TOWER = ("8 x 8 patches around things: what and where each is", "whole images: the same")


def write_card(folder: Path, lineage: str = "", recipe: Course = RECIPE) -> None:
    """Write `folder/README.md` from `curves.json` and `results.json` there. `lineage` says what else happened."""
    write_bytes(folder / "README.md", _CARD.format(**measured(folder, lineage, recipe, _TOWER)).encode())


if __name__ == "__main__":
    command("instruments.qwen.card", __doc__, write_card)
