"""Carries TCP connections from the host's loopback into the node's network namespace."""

import socket
import threading
from contextlib import suppress

CHUNK_BYTES = 65536


def listen(port: int) -> socket.socket:
    """Listen on 127.0.0.1:`port` of the network namespace that this process is in now."""
    return socket.create_server(("127.0.0.1", port), backlog=64)


def forward(listener: socket.socket, port: int) -> None:
    """Pass every connection on to 127.0.0.1:`port` of the namespace that this process is in then.

    Threads inherit the namespace they are started in, so call this after changing it. Closing the
    listener ends it.
    """
    threading.Thread(target=_accept, args=(listener, port), daemon=True).start()


def _accept(listener: socket.socket, port: int) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            if listener.fileno() < 0:
                return  # it was closed
            raise
        threading.Thread(target=_serve, args=(client, port), daemon=True).start()


def _serve(client: socket.socket, port: int) -> None:
    with client, suppress(OSError), socket.create_connection(("127.0.0.1", port)) as server:
        back = threading.Thread(target=_pump, args=(server, client), daemon=True)
        back.start()
        _pump(client, server)
        back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(CHUNK_BYTES):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
