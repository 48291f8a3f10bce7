"""What the world can show and say: kinds, colours, places and the words of the tokenizer."""

from __future__ import annotations

SIZE = 192
"""Image side in pixels."""
PATCH = 8
"""Patch side in pixels."""
GRID = SIZE // PATCH
"""Patches per side: 24, so 576 visual tokens."""

SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross", "ring", "moon")
LETTERS = ("a", "b", "e", "h", "k", "l", "t", "u", "x", "z")
PLATE = "plate"
KINDS = (*SHAPES, *LETTERS, PLATE)

PLURALS = {shape: shape + ("es" if shape == "cross" else "s") for shape in SHAPES}

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 165, 60),
    "blue": (50, 80, 230),
    "yellow": (240, 225, 50),
    "purple": (140, 45, 185),
    "orange": (245, 135, 25),
    "cyan": (60, 210, 220),
    "pink": (245, 125, 190),
}
DARK = ("red", "blue", "purple", "green")
"""Plate colours that carry white letters; the others carry black ones."""

COUNTS = ("0", "1", "2", "3", "4")
PLACES = ("northwest", "north", "northeast", "west", "center", "east", "southwest", "south", "southeast")
"""The nine cells of the image, row by row."""
DIRECTIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
TIERS = ("simple", "medium", "crowded", "cluttered")
"""What seeds draw. `cluttered` holds few things among many distractors."""
UNSEEN = {"textured": "cluttered"}
"""Tiers that no seed draws and no training sees, and the tier whose layout they have. In `textured`, half of the ground
is small coloured gratings."""
EVERY_TIER = (*TIERS, *UNSEEN)
PATTERNS = ("stripes", "bars", "checks", "dots")
"""Textures of distractors. Words for them exist, but nothing is ever asked about them."""
QUESTION_KINDS = ("color", "shape", "letter", "exist", "count", "position", "plate", "relation")

PAD, BOS, EOS, UNK, IMAGE, END = "<pad>", "<s>", "</s>", "<unk>", "<image>", "<end>"
SPECIALS = (PAD, BOS, EOS, UNK, IMAGE, END)
"""`<end>` closes every text given to the CLIP text tower, which pools there."""

_PROSE = """
user assistant : ? . , a an the of and in on is are there what where how many color shape letter code thing
things photo image background nothing object objects left right above below yes no with which it answer""".split()  # noqa: SIM905

_NAMES = (*SHAPES, *PLURALS.values(), *LETTERS, PLATE, *COLORS, *COUNTS, *PLACES, *PATTERNS)
WORDS = tuple(dict.fromkeys([*SPECIALS, *_PROSE, *_NAMES]))
"""The whole vocabulary, in token-id order."""


def noun(kind: str) -> str:
    """How a kind is called in a sentence: `circle`, `letter k`, `plate`."""
    return f"letter {kind}" if kind in LETTERS else kind


def article(word: str) -> str:
    """`an` before a vowel, else `a`."""
    return "an" if word[0] in "aeiou" else "a"
