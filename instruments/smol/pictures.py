"""Cut-outs with names and photographic grounds, out of packages that say what they are.

| what | package | licence | in the repository |
|---|---|---|---|
| 3-D rendered objects | npm `@lobehub/fluent-emoji-3d` 1.1.0 | MIT | a dozen sample scenes |
| photographic and drawn cut-outs | Debian `tuxpaint-stamps-default` | GPL-2 | never: fetched to train and to test |
| drawings, some photographs | Debian `gcompris-qt-data` | GPL-3+, CC BY-SA and freer | never: fetched to train |
| clip art | Debian `openclipart-png` | public domain | never: fetched to train |
| emoji of eight makers | npm `@iconify-json/*` (`ICONS`) | MIT, Apache-2.0, CC BY, CC BY-SA | never: fetched to train |
| emoji of a ninth | npm `@iconify-json/streamline-emojis` | CC BY 4.0 | never: fetched to test |
| drawings on white (Art4Apps) | Debian `pysiogame` | GPL-3+, as Debian says | never: fetched to test |
| photographic grounds | Debian `mate-backgrounds` | GPL-2+ and others | never |
| texture photographs (grass, gravel, brick) | PyPI `scikit-image` | CC0 | in the sample scenes |

`things.json` lists every name with its pictures. For half of the names the test split shows none that training shows,
but up to three others: a stamp, and one of each of two makers of whom training shows nothing. A picture that is another
size or form of a test picture is in no list: clip art, GCompris and the stamps share some drawings.
"""

import functools
import hashlib
import io
import json
import os
import subprocess
import unicodedata
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

from instruments.smol.bundles import entries
from instruments.smol.parts import cache, check

STAMPS, GROUNDS = "usr/share/tuxpaint/stamps", "usr/share/backgrounds/mate/nature"
CLIPART, BUNDLES = "usr/share/openclipart/png", "usr/share/gcompris-qt/rcc"
ART = "usr/share/games/pysiogame/res/images/art4apps"
DEBS = {
    "tuxpaint-stamps-default_2022.06.04-1_all.deb": "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
    "mate-backgrounds_1.26.0-1_all.deb": "7bf4c2209f34b4f61ba6d24c8b58c28b361e82e4b943aae6d42c030169af9e04",
    "openclipart-png_1%3a0.18+dfsg-19_all.deb": "f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02",
    "gcompris-qt-data_3.1-2_all.deb": "e9cf06ab2105529068df73085784e835d2ff03f870d2a8091f09125d40abac9f",
    "pysiogame_4.20.01-1_all.deb": "6b22766dfd8ef3a046c2665fe2598ac8a1ecee3d331bda38accf53de65bc59bf",
}
EMOJI = "lobehub-fluent-emoji-3d-1.1.0.tgz", "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58"
# CC BY 4.0: emojione, streamline, twemoji; CC BY-SA 4.0: emojione-v1, openmoji; MIT: fluent; Apache-2.0: the others.
ICONS = {
    "iconify-json-emojione-1.2.3.tgz": "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
    "iconify-json-emojione-v1-1.2.3.tgz": "6641d59d48a42823fdc2b84e7427e9f302944eb98d2c7d94d6e67c139e7b37b3",
    "iconify-json-fluent-emoji-flat-1.2.6.tgz": "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    "iconify-json-fxemoji-1.2.2.tgz": "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
    "iconify-json-noto-1.2.9.tgz": "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
    "iconify-json-noto-v1-1.2.5.tgz": "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
    "iconify-json-openmoji-1.2.29.tgz": "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5",
    "iconify-json-streamline-emojis-1.2.4.tgz": "5dac87c876b322500989828c5823143e0100d78881627a2e4081a4b897cbfdbc",
    "iconify-json-twemoji-1.2.5.tgz": "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
}
TEST_GROUNDS = ("Storm", "Wood", "brick")
NOT_GROUNDS = ("LadyBird", "FreshFlower", "YellowFlower")
LARGEST, WHITE = 192, 240


@dataclass(frozen=True)
class Thing:
    """A name, its class ('animal', 'food' or 'thing') and its pictures.

    `known` are shown in every split, `more` in training alone; `test` by the test split in place of `known`, `unseen`
    by the split of that name, which is for choosing: no training sees either.
    """

    name: str
    kind: str
    known: tuple[str, ...]
    test: tuple[str, ...]
    more: tuple[str, ...]
    unseen: tuple[str, ...]

    def pictures(self, split: str) -> tuple[str, ...]:
        """Those that `split` may show; in samples, those under the MIT licence."""
        if split == "samples":
            return tuple(p for p in self.known if p.startswith("e:"))
        if split == "train":
            return self.known + self.more
        return {"test": self.test, "unseen": self.unseen}.get(split) or self.known


@functools.cache
def things() -> tuple[Thing, ...]:
    """The table, in order."""
    listed = json.loads((Path(__file__).parent / "things.json").read_text(encoding="utf8"))
    return tuple(Thing(name, kind, *map(tuple, lists)) for name, kind, *lists in listed)


@functools.cache
def unpacked() -> Path:
    """Folder with everything unpacked; fetches what is missing (apt-get, npm), checks hashes."""
    root, packages = cache() / "pictures", cache() / "packages"
    packages.mkdir(parents=True, exist_ok=True)
    for name, sha256 in DEBS.items():
        package, version, _ = name.replace("%3a", ":").split("_")
        if (target := root / package).exists():
            continue
        if not (packages / name).exists():
            subprocess.run(["apt-get", "download", f"{package}={version}"], cwd=packages, check=True)
        once(["dpkg-deb", "-x", str(check(packages / name, sha256))], target)
    for name, sha256 in (EMOJI, *ICONS.items()):
        package, _, version = name.removesuffix(".tgz").rpartition("-")
        if (target := root / package).exists():
            continue
        if not (packages / name).exists():
            scope = next(s for s in ("iconify-json", "lobehub") if package.startswith(s))
            spec = f"@{scope}/{package.removeprefix(scope)[1:]}@{version}"
            subprocess.run(["npm", "pack", spec], cwd=packages, check=True)
        once(["tar", "xzf", str(check(packages / name, sha256)), "-C"], target)
    return root


def once(command: list[str], target: Path) -> None:
    """Unpack into a folder that is there only when it is whole."""
    part = target.with_name(f"{target.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    subprocess.run([*command, str(part)], check=True)
    part.rename(target)


def emoji(name: str) -> Path:
    """File of a 3-D emoji by its Unicode name."""
    code = f"{ord(unicodedata.lookup(name.upper())):x}"
    folder = unpacked() / "lobehub-fluent-emoji-3d" / "package" / "assets"
    plain = folder / f"{code}.webp"
    return plain if plain.exists() else folder / f"{code}-fe0f.webp"


@functools.cache
def icons(maker: str) -> dict:
    """A maker's emoji: their SVG by name, and other names."""
    file = unpacked() / f"iconify-json-{maker}" / "package" / "icons.json"
    return json.loads(file.read_text(encoding="utf8"))


def icon(maker: str, name: str) -> bytes:
    """SVG of an emoji."""
    table = icons(maker)
    found = table["icons"][table.get("aliases", {}).get(name, {}).get("parent", name)]
    sizes = {"left": 0, "top": 0, "width": 16, "height": 16} | table | found
    box = [sizes[k] for k in ("left", "top", "width", "height")]
    space = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {space} viewBox="{" ".join(map(str, box))}">{found["body"]}</svg>'.encode()


@functools.cache
def bundle(name: str) -> dict[str, bytes]:
    """Files in one of GCompris's bundles."""
    return dict(entries((unpacked() / "gcompris-qt-data" / BUNDLES / f"{name}.rcc").read_bytes()))


def drawn(svg: bytes) -> Image.Image:
    """An SVG, LARGEST pixels wide."""
    import resvg_py

    return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg.decode(), width=LARGEST))))


def unmounted(picture: Image.Image) -> Image.Image:
    """A drawing without the white that surrounds it."""
    sheet = ImageOps.expand(picture.convert("L").point(lambda v: 255 if v >= WHITE else 128), 1, 255)
    ImageDraw.floodfill(sheet, (0, 0), 0)
    picture.putalpha(ImageOps.crop(sheet.point(lambda v: 255 * (v > 0)), 1))
    return picture


def read(source: str) -> Image.Image:
    """'s:' a stamp's path, 'e:' a 3-D emoji's name, 'o:' clip art's path, 'g:bundle/path', 'i:maker:name', 'a:' art."""
    where, name = source[0], source[2:]
    if where == "i":
        return drawn(icon(*name.split(":")))
    if where == "g":
        first, _, rest = name.partition("/")
        (data,) = (d for path, d in bundle(first).items() if path.endswith(f"/{rest}"))
        return drawn(data) if name.endswith(".svg") else Image.open(io.BytesIO(data))
    if where == "a":
        return unmounted(Image.open(unpacked() / "pysiogame" / ART / f"{name}.jpg"))
    folders = {"s": Path("tuxpaint-stamps-default", STAMPS), "o": Path("openclipart-png", CLIPART)}
    path = emoji(name) if where == "e" else unpacked() / folders[where] / name
    return drawn(path.read_bytes()) if path.suffix == ".svg" else Image.open(path)


@functools.cache
def cutout(source: str) -> Image.Image:
    """RGBA, cropped to what is opaque, at most LARGEST pixels; kept on disk, as some take seconds to draw."""
    file = cache() / "cutouts" / f"{hashlib.sha256(source.encode()).hexdigest()[:16]}.png"
    if not file.exists():
        picture = read(source).convert("RGBA")
        picture = picture.crop(picture.getchannel("A").point(lambda a: 255 * (a > 40)).getbbox())
        picture.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
        file.parent.mkdir(exist_ok=True)
        picture.save(part := file.with_suffix(f".{os.getpid()}"), "PNG")
        part.rename(file)
    with Image.open(file) as saved:
        return saved.convert("RGBA")


@functools.cache
def grounds(split: str) -> tuple[Image.Image, ...]:
    """Photographs, 640 pixels at their shorter side; three are kept for the test split, CC0 ones in samples."""
    (skimage,) = find_spec("skimage").submodule_search_locations or ()  # its photographs alone: no import
    files = [] if split == "samples" else sorted((unpacked() / "mate-backgrounds" / GROUNDS).glob("*.jpg"))
    files += [Path(skimage) / "data" / f"{n}.png" for n in ("grass", "gravel", "brick")]
    made = []
    for file in files:
        if file.stem in NOT_GROUNDS or (split != "samples" and (file.stem in TEST_GROUNDS) != (split == "test")):
            continue
        picture = Image.open(file).convert("RGB")
        scale = 640 / min(picture.size)
        made.append(picture.resize((round(picture.width * scale), round(picture.height * scale))))
    return tuple(made)
