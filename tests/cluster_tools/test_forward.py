"""The forwarder carries bytes both ways and closes when either end does."""

import socket
import threading
from collections.abc import Iterator

import pytest

from hack.cluster.forward import forward, listen


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that sends back what it gets until its client stops sending; its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        yield server.getsockname()[1]


def serve(server: socket.socket) -> None:
    while True:
        try:
            client, _ = server.accept()
        except OSError:
            return
        with client:
            while data := client.recv(65536):
                client.sendall(data)


@pytest.fixture
def front(echo: int) -> Iterator[int]:
    """The port that leads to the echo server."""
    with listen(0) as listener:
        forward(listener, echo)
        yield listener.getsockname()[1]


def test_a_megabyte_comes_back_whole_after_a_half_close(front: int) -> None:
    sent = bytes(range(256)) * 4096
    with socket.create_connection(("127.0.0.1", front)) as client:
        writer = threading.Thread(target=send, args=(client, sent))
        writer.start()
        received = b"".join(iter(lambda: client.recv(65536), b""))
        writer.join()
    assert received == sent


def send(client: socket.socket, data: bytes) -> None:
    client.sendall(data)
    client.shutdown(socket.SHUT_WR)


def test_a_dead_target_closes_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with listen(0) as listener:
        forward(listener, port)
        with socket.create_connection(listener.getsockname()) as client:
            assert client.recv(1) == b""


def test_a_listener_that_was_closed_ends_it_without_a_word() -> None:
    listener, before = listen(0), set(threading.enumerate())
    listener.close()

    forward(listener, 1)

    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=10)
        assert not thread.is_alive()
