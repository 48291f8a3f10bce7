"""Cut-outs with names and photographic grounds, out of packages that say what they are.

| what | package | licence | in the repository |
|---|---|---|---|
| 3-D rendered objects | npm `@lobehub/fluent-emoji-3d` 1.1.0 | MIT | a dozen sample scenes |
| photographic and drawn cut-outs | Debian `tuxpaint-stamps-default` | GPL-2 | never: fetched to train and to test |
| photographic grounds | Debian `mate-backgrounds` | GPL-2+ and others | never |
| texture photographs (grass, gravel, brick) | PyPI `scikit-image` | CC0 | in the sample scenes |

`things.json` lists every name with its pictures; half of the names keep one picture for the test split alone.
"""

import functools
import json
import subprocess
import unicodedata
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from instruments.smol.parts import cache, check

STAMPS, GROUNDS = "usr/share/tuxpaint/stamps", "usr/share/backgrounds/mate/nature"
DEBS = {
    "tuxpaint-stamps-default_2022.06.04-1_all.deb": "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
    "mate-backgrounds_1.26.0-1_all.deb": "7bf4c2209f34b4f61ba6d24c8b58c28b361e82e4b943aae6d42c030169af9e04",
}
EMOJI = "lobehub-fluent-emoji-3d-1.1.0.tgz", "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58"
TEST_GROUNDS = ("Storm", "Wood", "brick")
NOT_GROUNDS = ("LadyBird", "FreshFlower", "YellowFlower")
LARGEST = 192


@dataclass(frozen=True)
class Thing:
    """A name, its class ('animal', 'food' or 'thing') and where its pictures are."""

    name: str
    kind: str
    train: tuple[str, ...]
    test: tuple[str, ...]

    def pictures(self, split: str) -> tuple[str, ...]:
        """Those that `split` may show: held-out ones in the test split, where the name has any; MIT ones in samples."""
        if split == "samples":
            return tuple(p for p in self.train if p.startswith("e:"))
        return self.train if split != "test" or not self.test else self.test


@functools.cache
def things() -> tuple[Thing, ...]:
    """The table, in order."""
    listed = json.loads((Path(__file__).parent / "things.json").read_text(encoding="utf8"))
    return tuple(Thing(n, k, tuple(train), tuple(test)) for n, k, train, test in listed)


def unpacked() -> Path:
    """Folder with everything unpacked; fetches what is missing (apt-get, npm), checks hashes."""
    root, packages = cache() / "pictures", cache() / "packages"
    if (root / "done").exists():
        return root
    root.mkdir(parents=True, exist_ok=True)
    packages.mkdir(parents=True, exist_ok=True)
    for name, sha256 in DEBS.items():
        package, version, _ = name.split("_")
        if not (packages / name).exists():
            subprocess.run(["apt-get", "download", f"{package}={version}"], cwd=packages, check=True)
        subprocess.run(["dpkg-deb", "-x", str(check(packages / name, sha256)), str(root)], check=True)
    if not (packages / EMOJI[0]).exists():
        subprocess.run(["npm", "pack", "@lobehub/fluent-emoji-3d@1.1.0"], cwd=packages, check=True)
    subprocess.run(["tar", "xzf", str(check(packages / EMOJI[0], EMOJI[1])), "-C", str(root)], check=True)
    (root / "done").touch()
    return root


def path(source: str) -> Path:
    """File of 's:animals/...png' (a stamp) or 'e:cow face' (an emoji by its Unicode name)."""
    where, name = source[0], source[2:]
    if where == "s":
        return unpacked() / STAMPS / name
    code = f"{ord(unicodedata.lookup(name.upper())):x}"
    folder = unpacked() / "package" / "assets"
    plain = folder / f"{code}.webp"
    return plain if plain.exists() else folder / f"{code}-fe0f.webp"


@functools.cache
def cutout(source: str) -> Image.Image:
    """RGBA, cropped to what is opaque, at most LARGEST pixels."""
    picture = Image.open(path(source)).convert("RGBA")
    picture = picture.crop(picture.getchannel("A").point(lambda a: 255 * (a > 40)).getbbox())
    picture.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    return picture


@functools.cache
def grounds(split: str) -> tuple[Image.Image, ...]:
    """Photographs, 640 pixels at their shorter side; three are kept for the test split, CC0 ones in samples."""
    (skimage,) = find_spec("skimage").submodule_search_locations or ()  # its photographs alone: no import
    files = [] if split == "samples" else sorted((unpacked() / GROUNDS).glob("*.jpg"))
    files += [Path(skimage) / "data" / f"{n}.png" for n in ("grass", "gravel", "brick")]
    made = []
    for file in files:
        if file.stem in NOT_GROUNDS or (split != "samples" and (file.stem in TEST_GROUNDS) != (split == "test")):
            continue
        picture = Image.open(file).convert("RGB")
        scale = 640 / min(picture.size)
        made.append(picture.resize((round(picture.width * scale), round(picture.height * scale))))
    return tuple(made)
