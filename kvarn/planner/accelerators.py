"""Accelerators: the GPUs that vLLM runs on, with the memory that it finds on them, and the CPU."""

import difflib
import re
from dataclasses import dataclass, replace
from typing import Self

from kvarn.planner.errors import AcceleratorError

GIB = 1 << 30
CPU_MEMORY_BYTES = 4 * GIB
"""Memory limit of a CPU server when nobody states one: the demo's model needs a third of it."""
FP8_CAPABILITY = 8.9
"""Compute capability from where on Triton computes with fp8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """`count` equal devices that share each layer of a model, in one or more stages of layers.

    Attributes:
        product: the name in our table, e.g. `H100-80GB-HBM3`, or `cpu`.
        memory_bytes: memory of one device, as `cudaMemGetInfo` totals it; of the container on
            the CPU.
        bandwidth_bytes: what one device reads per second at most, from its data sheet.
        flops: dense operations on 16-bit numbers that one device does per second at most.
        capability: NVIDIA's compute capability, such as 9.0; 0 where it is not known.
        count: devices that share a layer; tensor parallel size.
        stages: parts that the layers are dealt to; pipeline parallel size.
    """

    product: str
    memory_bytes: int
    bandwidth_bytes: int = 0
    flops: int = 0
    capability: float = 0.0
    count: int = 1
    stages: int = 1

    def __post_init__(self) -> None:
        if self.count < 1:
            raise AcceleratorError("InvalidAccelerator", f"count is {self.count}; give at least 1.")
        if self.memory_bytes <= 0:
            raise AcceleratorError(
                "InvalidAccelerator", f"memory is {self.memory_bytes} bytes; give a positive size."
            )
        if self.stages < 1:
            raise AcceleratorError(
                "InvalidAccelerator", f"stages is {self.stages}; give at least 1."
            )
        if self.is_cpu and self.devices > 1:
            raise AcceleratorError(
                "InvalidAccelerator", f"A CPU is one device, not {self.devices}; ask for one."
            )
        if self.is_instance and self.devices > 1:
            raise AcceleratorError(
                "InvalidAccelerator",
                f"A process sees one MIG instance, not {self.devices}; ask for one, or for whole"
                " GPUs.",
            )

    def partition(self, profile: str) -> "Accelerator":
        """The MIG instance of this GPU with a profile such as `3g.20gb`.

        A GPU has eight slices of memory and seven of multiprocessors; each instance keeps a little
        memory for itself (`nvidia-smi mig -lgip`).

        Raises:
            AcceleratorError: that is no profile, or not one of this GPU.
        """
        found = _PROFILE.fullmatch(profile)
        stated = re.search(r"(\d+)GB", self.product.upper())
        slices = round(8 * int(found["memory"]) / int(stated[1])) if found and stated else 0
        if found is None or not 1 <= slices <= 8:
            raise AcceleratorError(
                "UnknownAccelerator",
                f"{profile} is no MIG profile of {self.product}; write it as 3g.20gb, or state its"
                " memory.",
            )
        return replace(
            self,
            product=f"{self.product}-MIG-{profile}",
            memory_bytes=round(slices / 8 * self.memory_bytes * 0.99) - GIB // 10,
            bandwidth_bytes=self.bandwidth_bytes * slices // 8,
            flops=self.flops * int(found["compute"]) // 7,
        )

    @property
    def devices(self) -> int:
        """Devices over all stages."""
        return self.count * self.stages

    def kv_heads(self, heads: int) -> int:
        """Those of a layer's KV heads on each device; copies where there are fewer than devices."""
        return max(1, heads // self.count)

    @property
    def is_large(self) -> bool:
        """Whether vLLM gives it the larger batch limits (`EngineArgs.get_batch_defaults`)."""
        small = any(word in self.product for word in ("A100", "A800", "GB10"))
        return self.memory_bytes >= 70 * GIB and not (small or self.is_cpu)

    @property
    def is_cpu(self) -> bool:
        """Whether the model runs on the processor."""
        return self.product == "cpu"

    @property
    def is_instance(self) -> bool:
        """Whether it is a part of a GPU (MIG)."""
        return "-MIG-" in self.product

    @property
    def is_amd(self) -> bool:
        """Whether the product's name is one of AMD's."""
        return _AMD.search(self.product) is not None

    @property
    def is_known(self) -> bool:
        """Whether what it can compute is."""
        return self.is_cpu or self.capability > 0

    @classmethod
    def cpu(cls, *, memory_bytes: int = CPU_MEMORY_BYTES) -> Self:
        """The processor, within a container's memory limit."""
        return cls(product="cpu", memory_bytes=memory_bytes)

    @classmethod
    def find(cls, name: str, *, count: int = 1, memory_bytes: int | None = None) -> "Accelerator":
        """The GPU called `name`, in any spelling of `nvidia.com/gpu.product` or of the trade.

        `memory_bytes` overrides the table, and admits a GPU that is not in it.

        Raises:
            AcceleratorError: nobody knows it and no memory is given, or the name fits several.
        """
        if name.lower() == "cpu":
            found: Accelerator | None = cls.cpu()
        elif part := _PARTITION.fullmatch(name):
            found = cls.find(part["whole"]).partition(part["profile"])
        else:
            found = _match(name)
        if memory_bytes is not None:
            known = found or cls(product=name, memory_bytes=memory_bytes)
            return replace(known, memory_bytes=memory_bytes, count=count)
        if found is None:
            raise AcceleratorError("UnknownAccelerator", _unknown(name))
        return replace(found, count=count)


def known_gpus() -> tuple[Accelerator, ...]:
    """Every GPU of the table, in its order: data centre, workstation, consumer."""
    return tuple(_GPUS.values())


def _match(name: str) -> Accelerator | None:
    """The GPU whose name has all words of `name`, and fewest others; None where no name has."""
    asked = _words(name)
    found = [
        gpu
        for gpu in _GPUS.values()
        if asked <= (known := _words(gpu.product)) and asked & _VARIANTS == known & _VARIANTS
    ]
    if not asked or not found:
        return None
    found.sort(key=lambda gpu: len(_words(gpu.product)))
    sizes = [gpu.memory_bytes for gpu in found]
    if max(sizes) > 1.25 * min(sizes):
        names = " or ".join(gpu.product for gpu in found[:4])
        raise AcceleratorError("AmbiguousAccelerator", f"{name} may be {names}; say which.")
    return found[0]


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name.upper(), [key.upper() for key in _GPUS], n=3, cutoff=0.3)
    names = ", ".join(product for product in _GPUS if product.upper() in near)
    return f"No GPU is known as {name}; " + (
        f"near are {names}, or state its memory." if names else "state its memory."
    )


def _words(name: str) -> frozenset[str]:
    """The words of a product name that tell GPUs apart: `{"A100", "80GB"}`."""
    text = re.sub(r"\(.*?\)", "", name).upper().replace("-", " ").replace("_", " ")
    text = re.sub(r"(\d+) ?GI?B?\b", r"\1GB", text)
    words = re.sub(r"\bRTX(?=\d)", "RTX ", text).split()
    return frozenset(word for word in words if not _FILLER.fullmatch(word))


_PROFILE = re.compile(r"(?P<compute>[1-7])g\.(?P<memory>\d+)gb(\+\w+)?", re.IGNORECASE)
_PARTITION = re.compile(r"(?P<whole>.+?)-MIG-(?P<profile>.+)", re.IGNORECASE)
_AMD = re.compile(r"\b(AMD|INSTINCT|RADEON|MI\d{2,3}[AX]?)\b", re.IGNORECASE)
_VARIANTS = frozenset({"TI", "SUPER", "LAPTOP"})
_FILLER = re.compile(
    r"NVIDIA|TESLA|GEFORCE|QUADRO|GPU|SERVER|WORKSTATION|EDITION|GENERATION|MAX|Q|SHARED"
    r"|SXM\d?|HBM\d?E?"
)


# Memory: «GPU 0 has a total capacity of N GiB» in PyTorch's and vLLM's messages, which is what
# vLLM multiplies with --gpu-memory-utilization. The driver keeps some: nvidia-smi shows up to
# 2 % more. Where drivers differ, the smaller figure stands. Bandwidth in GB/s and dense 16-bit
# tensor operations in TFLOP/s: NVIDIA's data sheets. Last, the compute capability.
_TABLE = """
B300-SXM6-288GB                     267.69  8000   2250   10.3
GB300-288GB                         276.5   8000   2500   10.3
GB200-186GB                         184.31  8000   2500   10.0
B200-180GB                          178.35  8000   2250   10.0
H200-141GB                          139.8   4800    989    9.0
H200-NVL-141GB                      139.8   4800    835    9.0
H100-80GB-HBM3                       79.18  3350    989    9.0
H100-PCIe-80GB                       79.18  2000    756    9.0
H100-NVL-94GB                        93.0   3900    835    9.0
H800-80GB                            79.18  3350    989    9.0
GH200-144GB-HBM3e                   139.8   4900    989    9.0
GH200-480GB                          94.5   4000    989    9.0
H20-96GB                             95.0   4000    148    9.0
A100-SXM4-80GB                       79.25  2039    312    8.0
A100-PCIE-80GB                       79.25  1935    312    8.0
A100-SXM4-40GB                       39.38  1555    312    8.0
A100-PCIE-40GB                       39.38  1555    312    8.0
A800-SXM4-80GB                       79.25  2039    312    8.0
A30-24GB                             23.5    933    165    8.0
A40-48GB                             44.34   696    150    8.6
A16-16GB                             14.53   200     18    8.6
A10-24GB                             22.03   600    125    8.6
A10G-24GB                            22.03   600     70    8.6
A2-16GB                              14.53   200     18    8.6
L40S-48GB                            44.39   864    362    8.9
L40-48GB                             44.39   864    181    8.9
L20-48GB                             44.39   864    120    8.9
L4-24GB                              22.03   300    121    8.9
Tesla-T4-16GB                        14.56   320     65    7.5
GB10-128GB                          121.6    273    125   12.1
RTX-PRO-6000-Blackwell-96GB          94.97  1792    252   12.0
RTX-PRO-5000-Blackwell-48GB          47.3   1344    147   12.0
RTX-6000-Ada-Generation-48GB         47.38   960    182    8.9
RTX-5000-Ada-Generation-32GB         31.4    576    131    8.9
RTX-A6000-48GB                       47.4    768    155    8.6
RTX-A5000-24GB                       23.5    768    111    8.6
Quadro-RTX-8000-48GB                 47.27   672    131    7.5
GeForce-RTX-5090-32GB                31.36  1792    210   12.0
GeForce-RTX-5080-16GB                15.46   960    113   12.0
GeForce-RTX-5070-Ti-16GB             15.46   896     88   12.0
GeForce-RTX-4090-24GB                23.51  1008    165    8.9
GeForce-RTX-4080-16GB                15.57   717     97    8.9
GeForce-RTX-4070-Ti-SUPER-16GB       15.57   672     88    8.9
GeForce-RTX-4060-Ti-16GB             15.57   288     44    8.9
GeForce-RTX-3090-Ti-24GB             23.55  1008     80    8.6
GeForce-RTX-3090-24GB                23.55   936     71    8.6
GeForce-RTX-3060-12GB                11.63   360     25    8.6
"""


def _parse(line: str) -> Accelerator:
    product, gib, gigabytes, teraflops, capability = line.split()
    return Accelerator(
        product=product,
        memory_bytes=round(float(gib) * GIB),
        bandwidth_bytes=int(gigabytes) * 10**9,
        flops=int(teraflops) * 10**12,
        capability=float(capability),
    )


_GPUS = {gpu.product: gpu for gpu in map(_parse, _TABLE.strip().splitlines())}
