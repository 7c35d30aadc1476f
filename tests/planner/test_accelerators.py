"""GPUs by name, in the spellings of node labels and of people."""

import pytest

from kvarn.planner import FORMATS, Accelerator, AcceleratorError, PlanError, known_gpus, plan
from tests.planner.builders import real_shape

GIB = 1 << 30


@pytest.mark.parametrize(
    ("name", "product"),
    [
        ("NVIDIA-H100-80GB-HBM3", "H100-80GB-HBM3"),
        ("NVIDIA H100 80GB HBM3", "H100-80GB-HBM3"),
        ("h100", "H100-80GB-HBM3"),
        ("H100 SXM5", "H100-80GB-HBM3"),
        ("NVIDIA-H100-PCIe", "H100-PCIe-80GB"),
        ("NVIDIA-H100-NVL", "H100-NVL-94GB"),
        ("NVIDIA-H200", "H200-141GB"),
        ("NVIDIA-GH200-480GB", "GH200-480GB"),
        ("NVIDIA-B200", "B200-180GB"),
        ("NVIDIA-A100-SXM4-40GB", "A100-SXM4-40GB"),
        ("NVIDIA-A100-80GB-PCIe", "A100-PCIE-80GB"),
        ("A100 80 GB", "A100-SXM4-80GB"),
        ("NVIDIA-A10", "A10-24GB"),
        ("NVIDIA-A10G-SHARED", "A10G-24GB"),
        ("NVIDIA-L4", "L4-24GB"),
        ("NVIDIA-L40S", "L40S-48GB"),
        ("Tesla-T4", "Tesla-T4-16GB"),
        ("NVIDIA-GeForce-RTX-3090", "GeForce-RTX-3090-24GB"),
        ("rtx 3090 ti", "GeForce-RTX-3090-Ti-24GB"),
        ("RTX4090", "GeForce-RTX-4090-24GB"),
        ("NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition", "RTX-PRO-6000-Blackwell-96GB"),
        ("NVIDIA-RTX-A6000", "RTX-A6000-48GB"),
        ("NVIDIA GB10 (DGX Spark)", "GB10-128GB"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX-6000-Ada-Generation-48GB"),
    ],
)
def test_a_gpu_is_found_in_any_spelling(name: str, product: str) -> None:
    assert Accelerator.find(name).product == product


@pytest.mark.parametrize("gpu", known_gpus(), ids=lambda gpu: gpu.product)
def test_every_gpu_is_found_by_its_own_name(gpu: Accelerator) -> None:
    assert Accelerator.find(gpu.product) == gpu


@pytest.mark.parametrize(
    "name",
    ["H1000", "NVIDIA-GeForce-RTX-4090-Laptop-GPU", "RTX 3060 Ti", "4090-48GB", "NVIDIA", ""],
)
def test_an_unknown_gpu_is_never_taken_for_another(name: str) -> None:
    with pytest.raises(AcceleratorError, match=r"No GPU is known as .*state its memory"):
        Accelerator.find(name)


def test_an_unknown_gpu_lists_near_names() -> None:
    with pytest.raises(AcceleratorError, match="H100-80GB-HBM3"):
        Accelerator.find("H101-80GB-HBM3")


@pytest.mark.parametrize("name", ["A100", "GH200", "RTX 6000"])
def test_a_name_of_several_sizes_asks_which(name: str) -> None:
    with pytest.raises(AcceleratorError, match="say which"):
        Accelerator.find(name)


@pytest.mark.parametrize(
    ("name", "gib"),
    [
        ("NVIDIA-A100-SXM4-40GB-MIG-1g.5gb", 4.75),
        ("NVIDIA-A100-SXM4-40GB-MIG-2g.10gb", 9.75),
        ("NVIDIA-A100-SXM4-40GB-MIG-3g.20gb", 19.62),
        ("NVIDIA-A100-SXM4-80GB-MIG-1g.10gb", 9.5),
        ("NVIDIA-H100-80GB-HBM3-MIG-3g.40gb", 39.25),
        ("NVIDIA-H100-80GB-HBM3-MIG-1g.10gb+me", 9.62),
    ],
)
def test_a_mig_instance_has_what_nvidia_smi_shows(name: str, gib: float) -> None:
    assert Accelerator.find(name).memory_bytes / GIB == pytest.approx(gib, rel=0.025)


def test_a_mig_instance_reads_and_computes_with_its_slices() -> None:
    whole, part = Accelerator.find("H200"), Accelerator.find("NVIDIA-H200-MIG-2g.35gb")

    assert (part.bandwidth_bytes, part.flops) == (whole.bandwidth_bytes // 4, whole.flops * 2 // 7)


@pytest.mark.parametrize("profile", ["3g", "8g.10gb", "1g.500gb", "all"])
def test_a_profile_that_cannot_be_is_refused(profile: str) -> None:
    with pytest.raises(AcceleratorError, match="is no MIG profile of H100-80GB-HBM3"):
        Accelerator.find(f"NVIDIA-H100-80GB-HBM3-MIG-{profile}")


def test_stated_memory_admits_any_gpu_and_overrides_the_table() -> None:
    assert Accelerator.find("H1000", memory_bytes=7 * GIB).memory_bytes == 7 * GIB
    assert Accelerator.find("H100", memory_bytes=7 * GIB).memory_bytes == 7 * GIB


@pytest.mark.parametrize(
    ("keywords", "words"),
    [({"count": 0}, "count is 0"), ({"memory_bytes": -1}, "memory is -1 bytes")],
)
def test_impossible_devices_are_refused(keywords: dict[str, int], words: str) -> None:
    with pytest.raises(AcceleratorError, match=words):
        Accelerator.find("H100", **keywords)


def test_a_model_is_not_split_over_the_cpu() -> None:
    with pytest.raises(AcceleratorError, match="A CPU is one device, not 2"):
        Accelerator.find("cpu", count=2)


def test_tiles_are_read_faster_where_there_are_native_kernels() -> None:
    share = FORMATS["kvarn_k4v2_g128"].bandwidth_share
    assert share(Accelerator.find("H200")) > share(Accelerator.find("A100-SXM4-80GB"))


@pytest.mark.parametrize("name", ["H100-80GB-HBM3-MIG-3g.40gb", "NVIDIA-H200-MIG-1g.18gb"])
def test_a_process_sees_one_instance_of_a_gpu(name: str) -> None:
    assert Accelerator.find(name).is_instance
    with pytest.raises(AcceleratorError, match="sees one MIG instance, not 2; ask for one, or"):
        Accelerator.find(name, count=2)


def test_no_remedy_names_several_instances() -> None:
    instance = Accelerator.find("H100-80GB-HBM3-MIG-1g.10gb")

    with pytest.raises(PlanError, match=r": use (\S+)\.$"):
        plan(real_shape("Qwen3-8B"), instance, cache_format="bf16")
