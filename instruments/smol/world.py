"""Scenes of cut-outs, a sign and a bar chart on a photograph, with questions whose answers and boxes are known.

A scene is a 3 x 3 grid: one to six cells hold a thing each, jittered; boxes are in units of the picture's side, so
one scene serves every resolution. Kinds of question: what (place to name), where (name to place), exist, relation
(beside, above, below), kind (the one animal or food), chart (the colour of the tallest bar). Scene n of a split is the
same on every machine with the same packages: all chance comes from SHA-256 of (split, n).
"""

import functools
import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

from instruments.smol import pictures

Box = tuple[float, float, float, float]
Colour = tuple[int, int, int]
CELLS = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
KINDS = ("what", "where", "exist", "relation", "kind", "chart")
WORDS = (
    "open", "stop", "exit", "sale", "hotel", "bank", "cafe", "park", "taxi", "push",
    "free", "fire", "milk", "wood", "rain", "snow", "king", "gold", "book", "music",
)  # fmt: skip
COLOURS = {
    "red": (214, 39, 40),
    "blue": (31, 90, 200),
    "green": (44, 150, 44),
    "yellow": (240, 200, 30),
    "purple": (140, 60, 180),
}
PLATES = (
    ((255, 255, 255), (20, 20, 20)),
    ((20, 60, 140), (255, 255, 255)),
    ((250, 210, 40), (20, 20, 20)),
    ((10, 110, 60), (255, 255, 255)),
)
STEPS = ((-1, 0, "to the left of"), (1, 0, "to the right of"), (0, -1, "above"), (0, 1, "below"))
FONTS = ("DejaVuSans-Bold", "DejaVuSerif-Bold", "DejaVuSans")


@dataclass(frozen=True)
class Placed:
    """One thing in a scene. `says` is the sign's word or the chart's tallest bar; `bars` the chart's (colour, box)s."""

    name: str
    kind: str
    cell: int
    box: Box
    says: str = ""
    bars: tuple[tuple[str, Box], ...] = ()


@dataclass(frozen=True)
class Question:
    """`needs` are the boxes without which nobody could answer; empty where the answer is 'no'."""

    kind: str
    text: str
    answer: str
    needs: tuple[Box, ...]

    def cells(self, side: int) -> set[int]:
        """Tokens of a side x side grid that those boxes cover."""
        return {c for box in self.needs for c in cells_of(box, side)}


def chance(*of: object) -> random.Random:
    """A generator that depends on `of` alone."""
    return random.Random(int.from_bytes(hashlib.sha256(repr(("smol", *of)).encode()).digest()[:8], "big"))


@functools.cache
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """Out of matplotlib's package."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf", size)


def sign(word: str, side: int, fontname: str, ground: Colour, ink: Colour) -> Image.Image:
    """A plate `side` pixels wide with one word in capitals that fills it."""
    size = 4 * side
    while size > 1 and font(fontname, size).getlength(word.upper()) > 0.9 * side:
        size -= 1
    plate = Image.new("RGBA", (side, max(1, round(side * 0.5))), (*ground, 255))
    ImageDraw.Draw(plate).text((side / 2, plate.height / 2), word.upper(), ink, font(fontname, size), anchor="mm")
    return plate


def bar_boxes(heights: Sequence[float]) -> list[Box]:
    """Three bars, in units of the plate."""
    return [(0.06 + i * 0.31, 1 - height, 0.06 + i * 0.31 + 0.26, 0.97) for i, height in enumerate(heights)]


def chart(side: int, colours: Sequence[str], heights: Sequence[float]) -> Image.Image:
    """Three bars on white."""
    plate = Image.new("RGBA", (side, side), (255, 255, 255, 255))
    draw = ImageDraw.Draw(plate)
    for colour, box in zip(colours, bar_boxes(heights), strict=True):
        draw.rectangle([v * side for v in box], COLOURS[colour])
    draw.line([(1, 0), (1, side - 2), (side, side - 2)], (60, 60, 60), max(1, side // 40))
    return plate


def flipped(source: str, size: tuple[int, int], flip: bool, look: random.Random | None = None) -> Image.Image:
    """A cut-out at its size; with `look`, varied by its chance."""
    plate = pictures.cutout(source)
    if look is not None:
        plate = varied(plate, look)
    plate = plate.resize(size, Image.Resampling.LANCZOS)
    return plate.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else plate


def varied(plate: Image.Image, r: random.Random) -> Image.Image:
    """Another look of a cut-out: part of a side gone, turned, other colours and light, a little blurred."""
    if r.random() < 0.3:
        w, h = plate.size
        left, top, right, bottom = (r.choice((0.0, r.uniform(0, 0.2))) for _ in range(4))
        plate = plate.crop((round(left * w), round(top * h), round((1 - right) * w), round((1 - bottom) * h)))
    if r.random() < 0.6:
        plate = plate.rotate(r.uniform(-20, 20), Image.Resampling.BICUBIC, expand=True)
        plate = plate.crop(plate.getchannel("A").point(lambda a: 255 * (a > 40)).getbbox())
    alpha, rgb = plate.getchannel("A"), plate.convert("RGB")
    if r.random() < 0.3:
        hue, saturation, value = rgb.convert("HSV").split()
        turn = r.randint(-12, 12)
        rgb = Image.merge("HSV", (hue.point(lambda v: (v + turn) % 256), saturation, value)).convert("RGB")
    for enhance, least, most in (
        (ImageEnhance.Color, 0.4, 1.4), (ImageEnhance.Brightness, 0.7, 1.3), (ImageEnhance.Contrast, 0.7, 1.3)
    ):  # fmt: skip
        rgb = enhance(rgb).enhance(r.uniform(least, most))
    if r.random() < 0.2:
        rgb = rgb.filter(ImageFilter.GaussianBlur(r.uniform(0.5, 2.5)))
    rgb.putalpha(alpha)
    return rgb


@dataclass(frozen=True)
class Layout:
    """A scene before it is drawn: the ground's crop, and each thing with what draws it."""

    ground: Image.Image
    crop: Box
    parts: list[tuple[Placed, Callable[[], Image.Image]]]

    @property
    def placed(self) -> list[Placed]:
        """What is in the scene."""
        return [p for p, _ in self.parts]


def layout(split: str, n: int, side: int) -> Layout:
    """Scene n of a split at side x side pixels; cheap, for boxes alone."""
    r = chance("scene", split, n)
    ground = r.choice(pictures.grounds(split))
    crop = r.randint(320, 640)
    x, y = r.randint(0, ground.width - crop), r.randint(0, ground.height - crop)
    all_things = pictures.things()
    copies = r.choice([1, 1, 2, 3, 4])
    chosen = r.sample(all_things, r.choice([1, 2, 3, 3, 4, 4, 5]))
    members = [(t.name, t.kind) for t in chosen[: 7 - copies]] + [(chosen[0].name, chosen[0].kind)] * (copies - 1)
    members = members[:6]
    members += [("sign", "sign")] * (r.random() < 0.4) + [("chart", "chart")] * (r.random() < 0.35)
    by_name = {t.name: t for t in all_things}
    parts = []
    for (name, kind), cell in zip(members, r.sample(range(9), len(members)), strict=True):
        longest, says, bars = r.uniform(0.27, 0.33) * side, "", []
        if kind == "sign":
            says, (w, h) = r.choice(WORDS), (round(0.33 * side), round(round(0.33 * side) * 0.5))
            draw = functools.partial(sign, says, w, r.choice(FONTS), *r.choice(PLATES))
        elif kind == "chart":
            w = h = round(0.31 * side)
            colours, heights = r.sample(sorted(COLOURS), 3), [0.9, r.uniform(0.2, 0.6), r.uniform(0.2, 0.6)]
            r.shuffle(heights)
            says = colours[heights.index(0.9)]
            bars = list(zip(colours, bar_boxes(heights), strict=True))
            draw = functools.partial(chart, w, colours, heights)
        else:
            source = r.choice(by_name[name].pictures(split))
            size = pictures.cutout(source).size
            w, h = (max(6, round(v * longest / max(size))) for v in size)
            look = chance("look", n, cell) if split == "train" else None
            draw = functools.partial(flipped, source, (w, h), r.random() < 0.5, look)
        jitter = 0.02 * side
        at = [side * (c + 0.5) / 3 + r.uniform(-jitter, jitter) for c in (cell % 3, cell // 3)]
        left, top = (round(min(max(c - s / 2, 0), side - s)) for c, s in zip(at, (w, h), strict=True))
        box = (left / side, top / side, (left + w) / side, (top + h) / side)
        parts.append((Placed(name, kind, cell, box, says, tuple((c, place(b, box)) for c, b in bars)), draw))
    return Layout(ground, (x, y, x + crop, y + crop), parts)


def scene(split: str, n: int, side: int) -> tuple[Image.Image, list[Placed]]:
    """Picture (side x side RGB) and what is in it."""
    plan = layout(split, n, side)
    image = plan.ground.crop(plan.crop).resize((side, side), Image.Resampling.BICUBIC)
    if split == "train":
        look = chance("ground", n)
        for enhance in (ImageEnhance.Color, ImageEnhance.Brightness, ImageEnhance.Contrast):
            image = enhance(image).enhance(look.uniform(0.7, 1.3))
    for p, draw in plan.parts:
        plate = draw()
        image.paste(plate, (round(p.box[0] * side), round(p.box[1] * side)), plate)
    return image, plan.placed


def place(inner: Box, outer: Box) -> Box:
    """A box in units of `outer`, in the units `outer` is in."""
    w, h = outer[2] - outer[0], outer[3] - outer[1]
    return (outer[0] + inner[0] * w, outer[1] + inner[1] * h, outer[0] + inner[2] * w, outer[1] + inner[3] * h)


def article(name: str) -> str:
    """'an owl', 'a cow'."""
    return ("an " if name[0] in "aeiou" else "a ") + name


def questions(placed: list[Placed], r: random.Random) -> list[Question]:
    """Every question the scene answers without doubt, shuffled; as many 'no' as 'yes' to exist."""
    number = {p.name: sum(q.name == p.name for q in placed) for p in placed}
    at = {p.cell: p for p in placed}
    asked = []
    for p in placed:
        asked.append(Question("what", f"What is at the {CELLS[p.cell]}?", p.name, (p.box,)))
        if number[p.name] > 1:
            continue
        asked.append(Question("where", f"Where is the {p.name}?", CELLS[p.cell], (p.box,)))
        for dx, dy, words in STEPS:
            x, y = p.cell % 3 + dx, p.cell // 3 + dy
            if 0 <= x < 3 and 0 <= y < 3 and (other := at.get(3 * y + x)):
                asked.append(Question("relation", f"What is {words} the {p.name}?", other.name, (p.box, other.box)))
        if p.kind == "chart":
            asked.append(Question("chart", "Which bar is the tallest?", p.says, (p.box,)))
    real = [p for p in placed if p.kind not in ("sign", "chart")]
    for name in {p.name: None for p in real}:
        boxes = tuple(p.box for p in real if p.name == name)
        asked.append(Question("exist", f"Is there {article(name)}?", "yes", boxes))
    absent = [t.name for t in pictures.things() if t.name not in number]
    for name in r.sample(absent, len({p.name for p in real})):
        asked.append(Question("exist", f"Is there {article(name)}?", "no", ()))
    for kind in ("animal", "food"):
        if len(found := {p.name: p for p in real if p.kind == kind}) == 1:
            (name,) = found
            boxes = tuple(p.box for p in real if p.name == name)
            asked.append(Question("kind", f"Which {kind} is in the picture?", name, boxes))
    r.shuffle(asked)
    return asked


def cells_of(box: Box, side: int) -> list[int]:
    """Tokens of a side x side grid that a box covers by half in each direction at least, in row order; never none."""
    x0, y0, x1, y1 = (v * side for v in box)
    starts = [min(round(v), side - 1) for v in (x0, y0)]
    columns, rows = (range(a, max(a + 1, round(b))) for a, b in zip(starts, (x1, y1), strict=True))
    return [r * side + c for r in rows for c in columns]
