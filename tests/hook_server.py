"""A real HTTP server that takes messages: it keeps what it got, refuses, or never answers."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class HookServer(ThreadingHTTPServer):
    """On a free port of this machine. `answer`: the status of each answer; 0: none, until the server is closed."""

    daemon_threads = True
    answer = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: list[tuple[str, Any]] = []
        """The path and the JSON of each request; None for one without a body."""
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        """An address of it that looks like a secret."""
        return f"http://127.0.0.1:{self.server_port}/s3cr3t-path"

    @property
    def texts(self) -> list[str]:
        """The messages."""
        return [body["text"] for _, body in self.received]


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, HookServer)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server.received.append((self.path, json.loads(body) if body else None))
        if server.answer == 0:
            server.closing.wait()
            return
        self.send_response(server.answer)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def hook_server() -> Iterator[HookServer]:
    """A server that listens for the time of a block."""
    server = HookServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
