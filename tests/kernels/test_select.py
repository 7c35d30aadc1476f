"""Kernels in CUDA C++ are taken where their compiler answers, and Triton's everywhere else."""

import logging
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from cuda.bindings import nvrtc

from kvarn.kernels.cuda.program import Operation, ProgramError
from kvarn.kernels.select import cuda_kernels, kernels_for


@pytest.fixture(autouse=True)
def _hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))


def answering(monkeypatch: pytest.MonkeyPatch, result: int, known: list[int]) -> None:
    answer = (SimpleNamespace(value=result, name="NVRTC_ERROR_INTERNAL_ERROR"), known)
    monkeypatch.setattr(nvrtc, "nvrtcGetSupportedArchs", lambda: answer)


def test_they_are_taken_without_a_word(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answering(monkeypatch, 0, [80, 90])
    assert cuda_kernels()
    assert not caplog.records


def test_an_older_gpu_has_none_without_a_word(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 9))
    assert cuda_kernels() is None
    assert not caplog.records


@pytest.mark.parametrize(
    ("result", "known", "reason"),
    [
        (0, [80, 100], "NVRTC does not know GPUs of compute capability 9.0"),
        (11, [], "NVRTC_ERROR_INTERNAL_ERROR"),
    ],
)
def test_a_compiler_that_refuses_is_named(
    result: int,
    known: list[int],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    answering(monkeypatch, result, known)
    assert cuda_kernels() is None
    assert [reason in record.message for record in caplog.records] == [True]


def test_a_library_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing() -> None:
        raise RuntimeError("Failure finding libnvrtc.so")

    monkeypatch.setattr(nvrtc, "nvrtcGetSupportedArchs", missing)
    assert cuda_kernels() is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "RuntimeError: Failure finding libnvrtc.so" in caplog.text


def test_other_packages_share_the_name_of_the_bindings(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as cuda-pathfinder, which may be there alone."""
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    assert cuda_kernels() is None
    assert "cuda.bindings" in caplog.text


def test_a_program_that_is_refused_is_asked_for_once(caplog: pytest.LogCaptureFixture) -> None:
    asked = []

    def store(number: int) -> bool:
        asked.append(number)
        if number == 2:
            raise ProgramError("NVRTC does not compile store.cu")
        return True

    attempt = Operation(store)
    assert [attempt(number) for number in (1, 2, 3)] == [True, False, False]
    assert asked == [1, 2]
    assert caplog.text.count("NVRTC does not compile store.cu") == 1


def test_other_errors_are_errors() -> None:
    def launch() -> bool:
        raise RuntimeError("CUDA refuses a launch: CUDA_ERROR_ILLEGAL_ADDRESS")

    with pytest.raises(RuntimeError, match="ILLEGAL_ADDRESS"):
        Operation(launch)()


@pytest.mark.parametrize(
    ("batch_invariant", "store", "single_tokens", "named"),
    [
        (False, True, True, "CUDA C++ and Triton"),
        (False, False, True, "CUDA C++ and Triton"),
        (False, True, False, "Triton, and CUDA C++ for complete tiles"),
        (False, False, False, "Triton"),
        (True, True, True, "Triton, and CUDA C++ for complete tiles"),
    ],
)
def test_the_kernels_that_ran_are_named(
    batch_invariant: bool,
    store: bool,
    single_tokens: bool,
    named: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answering(monkeypatch, 0, [90])
    cuda = cuda_kernels()
    monkeypatch.setattr(cuda, "store_tiles", lambda: store)
    monkeypatch.setattr(cuda, "attend_single_tokens", lambda: single_tokens)
    kernels = kernels_for("cuda", batch_invariant=batch_invariant)
    assert kernels.describe() == "CUDA C++ where it has programs, and Triton"
    assert isinstance(kernels.attend_and_store, partial)
    for operation in ("store", "single_tokens"):
        if work := kernels.attend_and_store.keywords[operation]:
            work()
    assert kernels.describe() == named


def test_triton_alone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert kernels_for("cuda").describe() == "Triton"
