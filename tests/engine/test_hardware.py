"""Which devices the kernels run on, and what is said of the others."""

import pytest

from kvarn.engine.hardware import Device


@pytest.mark.parametrize(
    "device",
    [
        Device("cpu"),
        Device("cpu", triton="3.1.0"),
        *(Device("cuda", (major, 0), "3.6.0") for major in (8, 9, 10)),
        Device("cuda", (9, 0), "3.8.0+git1a2b"),
    ],
    ids=str,
)
def test_devices_that_are_tested(device: Device) -> None:
    assert device.why_unsupported() is None
    assert device.why_generic() is None


@pytest.mark.parametrize(
    ("device", "what"),
    [
        (Device("cuda", (7, 5), "3.6.0"), "compute capability 8.0 or later, and this one has 7.5"),
        (Device("cuda", (9, 0), "3.5.1"), "Triton 3.6 or later, and 3.5.1 is installed"),
        (Device("cuda", (9, 0)), "Triton 3.6 or later, and none is installed"),
        (Device("rocm", (9, 4), "3.6.0"), "GPUs by NVIDIA, not on rocm"),
        (Device("tpu"), "not on tpu"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_devices_that_are_refused_with_what_works_there(device: Device, what: str) -> None:
    reason = device.why_unsupported()
    assert reason
    assert what in reason
    assert reason.endswith("use --kv-cache-dtype auto")


def test_a_gpu_that_is_not_known_gets_generic_kernels_and_the_command_that_tunes_them() -> None:
    device = Device("cuda", (12, 0), "3.8.0")
    assert device.why_unsupported() is None
    reason = device.why_generic()
    assert reason
    assert "12.0 are not among those tested (8.0, 9.0, 10.0)" in reason
    assert "python -m bench.kernels --tune" in reason
