"""Programs of kvarn.kernels.cuda without a GPU: compiled for the host, a fiber for each thread."""

import ctypes
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from kvarn.kernels.cuda.program import JOIN_WARPS
from kvarn.kernels.cuda.source import FOLDER, Variant

EMULATOR = Path(__file__).parent / "emulator"


@dataclass(frozen=True)
class Emulated:
    """A program on the host.

    Attributes:
        blocks: of `attend`; they run one after another.
        partners: warps of each.
        library: the kernels' launchers.
    """

    blocks: int
    partners: int
    library: ctypes.CDLL

    def attend(self, arguments: ctypes.Structure) -> None:
        self.library.launch_attend(self.blocks, 1, 32 * self.partners, ctypes.byref(arguments))

    def combine(self, arguments: ctypes.Structure, blocks: int) -> None:
        self.library.launch_combine(blocks, 1, 32 * JOIN_WARPS, ctypes.byref(arguments))


def emulated(variant: Variant, blocks: int) -> Emulated:
    """Compile a program."""
    return Emulated(blocks, variant.partners, _attention(variant))


@cache
def _attention(variant: Variant) -> ctypes.CDLL:
    return library("emulate.cpp", variant.constants)


def library(source: str, constants: Mapping[str, int | str]) -> ctypes.CDLL:
    """Compile a file of the emulator and the kernels that it includes."""
    definitions = [f"-D{name}={value}" for name, value in constants.items()]
    command = ["g++", "-std=c++20", "-O1", "-shared", "-fPIC", f"-I{EMULATOR}", f"-I{FOLDER}"]
    with TemporaryDirectory() as folder:
        path = f"{folder}/emulated.so"
        subprocess.run([*command, *definitions, str(EMULATOR / source), "-o", path], check=True)
        return ctypes.CDLL(path)
