"""A door before a server's federation port, which a test opens and shuts: what passes is not looked at."""

import contextlib
import selectors
import socket
import threading
from typing import Self

_CHUNK = 64 * 1024


class Gate:
    """Listens on a free port of 127.0.0.1 and passes connections on to `target`, as long as it is open."""

    def __init__(self, target: int) -> None:
        self.target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._is_open = True
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shut()
        self._listener.close()

    def open(self) -> None:
        """Let connections through again."""
        self._is_open = True

    def shut(self) -> None:
        """Break every connection, and refuse new ones."""
        self._is_open = False
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _listen(self) -> None:
        while True:
            try:
                inside, _ = self._listener.accept()
            except OSError:
                return  # the gate is gone
            threading.Thread(target=self._serve, args=(inside,), daemon=True).start()

    def _serve(self, inside: socket.socket) -> None:
        with inside:
            if not self._is_open:
                return
            try:
                outside = socket.create_connection(("127.0.0.1", self.target), timeout=5)
            except OSError:
                return
            with outside:
                outside.settimeout(None)
                with self._lock:
                    self._connections |= {inside, outside}
                try:
                    _pass_on(inside, outside)
                finally:
                    with self._lock:
                        self._connections -= {inside, outside}


def _pass_on(one: socket.socket, other: socket.socket) -> None:
    """What either says to the other, until one of them is done."""
    with selectors.DefaultSelector() as selector, contextlib.suppress(OSError):
        selector.register(one, selectors.EVENT_READ, other)
        selector.register(other, selectors.EVENT_READ, one)
        while True:
            for key, _ in selector.select():
                said = key.fileobj.recv(_CHUNK)  # type: ignore[union-attr] - only sockets are registered
                if not said:
                    return
                key.data.sendall(said)
