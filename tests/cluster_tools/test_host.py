"""The node is told from other processes, whatever it executes."""

import subprocess
from collections.abc import Iterator

import pytest

from hack.cache import Cache
from hack.cluster import host
from hack.cluster.layout import Layout

ANOTHER_PROGRAM = "read line; exec cat"


@pytest.fixture
def layout(cache: Cache) -> Layout:
    layout = Layout(cache)
    layout.state.mkdir(parents=True)
    return layout


@pytest.fixture
def node() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sh", "-c", ANOTHER_PROGRAM], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_a_node_stays_itself_while_it_executes_another_program(
    layout: Layout, node: subprocess.Popen[bytes]
) -> None:
    """In the middle of that its command line is empty, and once a start failed for it."""
    host.record_node(layout, node.pid)
    seen = {host.node_pid(layout)}
    assert node.stdin
    node.stdin.write(b"\n")
    node.stdin.flush()
    seen |= {host.node_pid(layout) for _ in range(2000)}
    assert seen == {node.pid}


def test_a_node_that_ended_does_not_run(layout: Layout, node: subprocess.Popen[bytes]) -> None:
    host.record_node(layout, node.pid)
    node.kill()
    node.wait()
    assert host.node_pid(layout) is None


def test_another_process_with_its_number_is_not_the_node(
    layout: Layout, node: subprocess.Popen[bytes]
) -> None:
    host.record_node(layout, node.pid)
    pid, started = layout.node_pid.read_text().split()
    layout.node_pid.write_text(f"{pid} {int(started) - 1}")
    assert host.node_pid(layout) is None


@pytest.mark.parametrize("text", ["", "1", "one two", "1 None"])
def test_a_record_that_is_none_names_no_node(layout: Layout, text: str) -> None:
    layout.node_pid.write_text(text)
    assert host.node_pid(layout) is None
