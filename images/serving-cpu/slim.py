"""Take the dead weight out of an installed vLLM; run once, by its interpreter, in the image build.

1. Symbol tables leave the shared objects: 440 MB that only a debugger reads.
2. Of vLLM's three builds of its CPU kernels the one that runs everywhere stays.
3. The libraries' own tests go.
4. What serving imports is compiled, so that a server on a read-only disk starts without compiling.
"""

import importlib
import shutil
import struct
import sys
import sysconfig
import warnings
from pathlib import Path

PACKAGES = Path(sysconfig.get_path("purelib"))
ELF_64_LITTLE_ENDIAN = b"\x7fELF\x02\x01"
KEPT_KERNELS = "_C_AVX2.abi3.so"
OTHER_KERNELS = ("_C.abi3.so", "_C_AVX512.abi3.so")
TESTED = ("networkx", "numpy", "sympy")
SERVING = (
    "vllm.entrypoints.launchers.api_server.entry",
    "vllm.entrypoints.launchers.cli_args",
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.core",
    "vllm.v1.executor.uniproc_executor",
    "vllm.v1.worker.cpu_worker",
    "vllm.v1.attention.backends.cpu_attn",
    "vllm.model_executor.models.llama",
    "vllm.model_executor.models.qwen3",
)
"""Importing these writes the bytecode of all that they import, a quarter of what there is."""


def main() -> None:
    """Do all four, and say what it saved."""
    saved = sum(drop_symbols(path) for path in PACKAGES.rglob("*.so*") if path.is_file())
    for name in OTHER_KERNELS:
        other = PACKAGES / "vllm" / name
        saved += other.stat().st_size
        other.unlink()
        other.symlink_to(KEPT_KERNELS)
    print(f"{saved / 1e6:.0f} MB of symbols and spare kernels removed")
    for library in TESTED:
        for tests in sorted((PACKAGES / library).rglob("tests")):
            shutil.rmtree(tests)
    sys.dont_write_bytecode = False
    warnings.simplefilter("ignore")
    for module in SERVING:
        importlib.import_module(module)


def drop_symbols(path: Path) -> int:
    """Cut a shared object off after the last byte that is ever loaded; return the bytes saved.

    The loader reads program headers only. Section headers, and the symbol tables that they lead
    to, come after everything loaded, so that nothing moves: unlike `strip`, this is safe for
    libraries that were patched after linking. Layout: System V ABI, ELF-64 object file format.
    """
    with path.open("r+b") as file:
        header = bytearray(file.read(64))
        if not header.startswith(ELF_64_LITTLE_ENDIAN):
            return 0
        table, entry_size, count = (
            *struct.unpack_from("<Q", header, 32),
            *struct.unpack_from("<HH", header, 54),
        )
        file.seek(table)
        segments = [file.read(entry_size) for _ in range(count)]
        end: int = max(
            struct.unpack_from("<Q", s, 8)[0] + struct.unpack_from("<Q", s, 32)[0] for s in segments
        )
        struct.pack_into("<Q", header, 40, 0)
        struct.pack_into("<HHH", header, 58, 0, 0, 0)
        file.seek(0)
        file.write(header)
        saved = path.stat().st_size - end
        file.truncate(end)
    return saved


if __name__ == "__main__":
    main()
