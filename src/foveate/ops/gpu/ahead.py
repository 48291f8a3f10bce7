"""Compile every kernel for named architectures without a GPU: the interpreter passes what the compiler refuses.

    python -m foveate.ops.gpu.ahead [--arch 80,89,90] [--tokens 576,2880]

Prints registers, spilled bytes and shared memory a program, and fails where a kernel does not compile.
"""

import argparse
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from foveate.ops.gpu import farthest, pointing, residual, rising, similar, suppress
from foveate.ops.gpu.similar import warps

_LONG = {"N": "i32", "K": "i32", "S": "i32", "T": "i32", "D": "i32", "cap": "i32"}
_WALKED = ("score", "key", "sight", "given", "own", "begin", "stop", "time", "lead", "dials", "hold",
           "stops")  # fmt: skip
_POINTER = dict.fromkeys(_WALKED, "*fp32")
_POINTERS = {
    "similar": "*i32", "near": "*i32", "near0": "*i32", "best": "*i32", "best0": "*i32", "risen": "*i32", "out": "*i32",
    "total": "*i64", "gain": "*i64", "gain0": "*i64", "start": "*i64", "order": "*i64",
    "product": "*fp32", "inverse": "*fp32",
    "worth": "*fp64", "radius": "*fp64",
    "weight": "*fp64", "slack": "*fp64", "first": "*fp64", "second": "*fp64", "gram": "*fp64", "part": "*fp64",
    "tolerance": "*fp64", "x": "*bf16", "scaled": "*bf16", "bad": "*i32",
}  # fmt: skip


def kernels(tokens: int) -> list[tuple[str, Any, dict[str, Any], int]]:
    """Name, kernel, constants and warps, as the launching functions choose them for images of so many tokens."""
    block = triton.next_power_of_2(tokens)
    out: list[tuple[str, Any, dict[str, Any], int]] = [
        ("prepare", similar.prepare, {"TILE": 1024}, 4),
        ("fix", similar.fix, {"TILE": similar._TILE}, 4),
        ("isolation", similar.isolation, {"BLOCK": block}, 4),
        ("begin", similar.begin, {"BLOCK": block}, 4),
        ("residual", residual.walk, {"BLOCK": block}, warps(block)),
    ]
    out += [
        (f"farthest{' weighted' * w}", farthest.walk, {"WEIGHTED": w, "BLOCK": block}, warps(block))
        for w in (False, True)
    ]
    # Every line of it is in these two.
    out += [
        (f"suppress{' by radius' * hard}, way {way}", suppress.walk, {"WAY": way, "HARD": hard, "BLOCK": block},
         warps(block))
        for way, hard in ((1, False), (2, True))
    ]  # fmt: skip
    for group, state in ((4, True), (1, True), (4, False)):
        constants = {"GROUP": group, "STATE": state, "HAZARD": state, "M": 128, "TILE": 8, "BLOCK": block}
        out.append((f"pointer, groups of {group}{', state' * state}", pointing.walk, constants, 2 * warps(block)))
    return out + [
        (name, rising.walk, {"MODE": mode, "TILE": 4, "BLOCK": block}, warps(block))
        for name, mode in rising.MODES.items()
    ]


def build(kernel: Any, constants: dict[str, Any], num_warps: int, arch: int) -> tuple[Any, dict[str, str]]:
    """One kernel for one architecture, and its argument types."""
    known = _LONG | _POINTERS | _POINTER
    types = {a: "constexpr" if a in constants else known[a] for a in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=types, constexprs=constants)
    options = {"num_warps": num_warps, "enable_fp_fusion": False}
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options), types


def usage(compiled: Any) -> str:
    """Registers, stack (spills) and shared memory a program."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(compiled.asm["cubin"])
        said = subprocess.run([str(tool), "--dump-resource-usage", file.name], capture_output=True, text=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", said)
    registers = f"{found[1]} registers, {found[2]} bytes of stack, " if found else ""
    return f"{registers}{compiled.metadata.shared} bytes shared"


def main() -> None:
    """Compile all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="80,89,90")
    parser.add_argument("--tokens", default="576,2880")
    args = parser.parse_args()
    for arch in map(int, args.arch.split(",")):
        for tokens in map(int, args.tokens.split(",")):
            for name, kernel, constants, num_warps in kernels(tokens):
                compiled, _ = build(kernel, constants, num_warps, arch)
                print(f"sm_{arch}, {tokens} tokens, {name}, {num_warps} warps: {usage(compiled)}", flush=True)


if __name__ == "__main__":
    main()
