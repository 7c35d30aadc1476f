"""A process that runs real vLLM engines one after another and answers over a socket.

Importing vLLM takes longer than most tests, so all tests of a release share one import. Each call
names one of the functions below; its result, or the exception that it raised as text, goes back.
"""

import gc
import sys
from multiprocessing.connection import Client

from vllm.distributed import cleanup_dist_env_and_memory
from vllm.model_executor.models import registry

from tests.engine import engines, faulty, mixed_service, pages, same_step, stages

CALLS = {
    call.__name__: call
    for call in (
        *(engines.version, engines.write_model, engines.register_again, engines.check),
        *(engines.generate, engines.generate_ahead, engines.generate_divided),
        *(engines.generate_reloaded, engines.capacity),
        *(pages.compare_pages, pages.forget_pages, faulty.serve_faulty_token),
        *(mixed_service.serve_mixture, same_step.reads_of_tiles_stored_beside),
        *(stages.stage_groups, stages.settle),
    )
}


def main(address: str) -> None:
    """Answer calls until the other side hangs up."""
    # Each engine collects garbage nine times, which takes three seconds over all that is imported.
    keep = gc.freeze
    gc.freeze = gc.unfreeze = lambda: None
    registry._run_in_subprocess = lambda work: work()  # one that imports vLLM again
    with Client(address) as line:
        while True:
            try:
                name, arguments = line.recv()
            except EOFError:
                return
            try:
                answer = (True, CALLS[name](**arguments))
            except Exception as error:  # whatever it is, it belongs to the caller
                answer = (False, f"{type(error).__name__}: {error}")
            gc.collect()
            cleanup_dist_env_and_memory()
            keep()
            line.send(answer)


if __name__ == "__main__":
    main(sys.argv[1])
