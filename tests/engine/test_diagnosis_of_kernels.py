"""A kernel that does not fit into a GPU is a cause of its own."""

from kvarn.engine.diagnosis import diagnose


def test_a_kernel_that_needs_more_shared_memory_than_there_is() -> None:
    failure = diagnose(
        "triton.runtime.errors.OutOfResources: out of resource: shared memory, Required: 131072, "
        "Hardware limit: 101376. Reducing block sizes or `num_stages` may help.\n"
        "RuntimeError: Engine core initialization failed. See root cause above.\n",
        1,
    )
    assert (failure.reason, failure.message) == (
        "Unsupported",
        "A kernel in Triton needs 131072 of shared memory, and this GPU gives a kernel 101376.",
    )
