"""Put a training run's weights into this repository: fp16, its log, their hash.

python -m instruments.smol.publish [RUN]                   # default: the run of $FOVEATE_SMOL
python -m instruments.smol.publish RUN --image-size 336    # into instruments/smol/576
"""

import argparse
import hashlib
import json
from pathlib import Path

from safetensors.torch import load_file, save_file

from foveate import files
from instruments.smol.parts import cache, published


def main(run: Path, out: Path) -> None:
    """Write weights.safetensors, run.json, SHA256SUMS."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = load_file(run / "weights.safetensors")
    # What standardises the features is folded into fp32 weights when the model is built: it keeps its precision.
    exact = {"projector.mean", "projector.std"}
    kept = {k: v.contiguous() if k in exact else v.half().contiguous() for k, v in tensors.items()}
    save_file(kept, part := out / "weights.part")
    part.rename(out / "weights.safetensors")
    log = json.loads((run / "run.json").read_text(encoding="utf8"))
    log["options"] = {k: v for k, v in log["options"].items() if k not in ("run", "start")}
    files.write(out / "run.json", (json.dumps(log, indent=1) + "\n").encode())
    sums = [f"{hashlib.sha256((out / n).read_bytes()).hexdigest()}  {n}" for n in ("weights.safetensors", "run.json")]
    files.write(out / "SHA256SUMS", ("\n".join(sums) + "\n").encode())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?", default=cache() / "run")
    parser.add_argument("--image-size", type=int, default=168, help="what the run was trained at")
    given = parser.parse_args()
    main(given.run, published(given.image_size))
