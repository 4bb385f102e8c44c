"""Compile every Triton kernel that an operator would launch, for a GPU that is not there.

``compiled_for(capability)`` replaces the launches inside the block: nothing runs, and what comes out of the operators
is undefined. Triton must not be interpreting (``TRITON_INTERPRET`` unset).
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from colocam_dist.kernels import launch as launching

__all__ = ["Compiled", "compiled_for"]

TYPES = {
    torch.float32: "*fp32", torch.float16: "*fp16", torch.uint8: "*u8", torch.int32: "*i32", torch.int64: "*i64",
    torch.bool: "*i1", torch.float64: "*fp64",
}  # fmt: skip


class Compiled(NamedTuple):
    """One kernel with one set of constants.

    Attributes:
        kernel: its name.
        constants: compile-time arguments.
        registers: per thread.
        spilled: bytes of local memory per thread; 0 unless registers ran out.
        shared: bytes of shared memory per program.
        instructions: the machine code, or "" where no disassembler is at hand.
    """

    kernel: str
    constants: dict[str, Any]
    registers: int
    spilled: int
    shared: int
    instructions: str


@contextmanager
def compiled_for(capability: int = 90) -> Iterator[list[Compiled]]:
    """Collect what every launch in the block compiles to."""
    found: dict[tuple[Any, ...], Compiled] = {}
    results: list[Compiled] = []

    def compile_only(kernel: Any, grid: tuple[int, ...], *arguments: Any, warps: int = 4, **constants: Any) -> None:
        names = kernel.arg_names
        signature = dict(zip(names, (_type(argument) for argument in arguments), strict=False))
        signature |= dict.fromkeys(constants, "constexpr")
        aligned = {
            (place,): [["tt.divisibility", 16]]
            for place, argument in enumerate(arguments)
            if isinstance(argument, torch.Tensor) or (isinstance(argument, int) and argument % 16 == 0)
        }
        key = (kernel.__name__, *signature.items(), *aligned, *constants.items(), warps)
        if key not in found:
            source = ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
            target = GPUTarget("cuda", capability, 32)
            binary = triton.compile(source, target=target, options={"num_warps": warps})
            found[key] = _inspect(kernel.__name__, constants, binary)
            results.append(found[key])

    before = launching.run
    launching.run = compile_only
    try:
        yield results
    finally:
        launching.run = before


def _type(argument: Any) -> str:
    if isinstance(argument, torch.Tensor):
        return TYPES[argument.dtype]
    if isinstance(argument, int):
        return "i32" if -(2**31) <= argument < 2**31 else "i64"
    return "fp32"


def _inspect(name: str, constants: dict[str, Any], binary: Any) -> Compiled:
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        usage, instructions = (
            subprocess.run([tools / "cuobjdump", option, file.name], capture_output=True, text=True, check=True).stdout
            for option in ("--dump-resource-usage", "-sass")
        )
    registers, stack, local = (int(re.search(rf"{key}:(\d+)", usage)[1]) for key in ("REG", "STACK", "LOCAL"))  # type: ignore[index]
    return Compiled(name, constants, registers, stack + local, binary.metadata.shared, instructions)
