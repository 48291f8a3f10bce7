"""Put a training run's weights into this folder: fp16, its log, their hash.

python -m instruments.smol.publish [RUN]        # default: the run of $FOVEATE_SMOL
"""

import hashlib
import json
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

from instruments.smol.parts import cache

HERE = Path(__file__).parent


def main(run: Path) -> None:
    """Write weights.safetensors, run.json, SHA256SUMS."""
    tensors = load_file(run / "weights.safetensors")
    # What standardises the features is folded into fp32 weights when the model is built: it keeps its precision.
    exact = {"projector.mean", "projector.std"}
    kept = {k: v.contiguous() if k in exact else v.half().contiguous() for k, v in tensors.items()}
    save_file(kept, HERE / "weights.safetensors")
    log = json.loads((run / "run.json").read_text(encoding="utf8"))
    log["options"] = {k: v for k, v in log["options"].items() if k not in ("run", "start")}
    (HERE / "run.json").write_text(json.dumps(log, indent=1) + "\n", encoding="utf8")
    sums = [f"{hashlib.sha256((HERE / n).read_bytes()).hexdigest()}  {n}" for n in ("weights.safetensors", "run.json")]
    (HERE / "SHA256SUMS").write_text("\n".join(sums) + "\n", encoding="utf8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else cache() / "run")
