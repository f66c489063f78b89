"""A real yaml-language-server for tests, as an editor runs it: a child process that reads and writes JSON-RPC.

python tests/editor/language_server.py install    # some 30 MB in the user's cache folder, by npm
python tests/editor/language_server.py remove
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

PACKAGE = "yaml-language-server@1.25.0"
INSTALL_COMMAND = "python tests/editor/language_server.py install"
SETTINGS = {"yaml": {"validate": True, "hover": True, "completion": True, "schemaStore": {"enable": False, "url": ""}}}
"""What an editor answers when it is asked; without the store, nothing is fetched."""


def directory() -> Path:
    """Where it is installed; the name says what is in it, so that another version gets another folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "oellm-autoexp-tests" / PACKAGE.replace("@", "-")


def program() -> Path:
    return directory() / "node_modules/.bin/yaml-language-server"


def missing() -> str | None:
    """Why there is no server here, or None if there is one."""
    if shutil.which("node") is None:
        return f"Node.js is not installed; install it and npm, then: {INSTALL_COMMAND}"
    if not program().exists():
        return f"yaml-language-server is not installed; install it: {INSTALL_COMMAND}"
    return None


def install() -> None:
    """Install what is missing. Raises CalledProcessError, FileNotFoundError."""
    if missing() is not None:
        command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(directory()), PACKAGE]
        directory().mkdir(parents=True, exist_ok=True)
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def remove() -> None:
    if directory().exists():
        shutil.rmtree(directory())


class LanguageServer:
    """The server as a child process: a context manager that ends it."""

    def __enter__(self) -> LanguageServer:
        self._child = subprocess.Popen(
            ["node", str(program()), "--stdio"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._ids = count(1)
        self._diagnostics: dict[str, list[dict[str, Any]]] = {}
        self.ask(
            "initialize", {"processId": None, "rootUri": None, "capabilities": {"workspace": {"configuration": True}}}
        )
        self._send({"method": "initialized", "params": {}})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.kill()
        with contextlib.suppress(BrokenPipeError):
            self._child.communicate()

    def problems(self, *paths: Path) -> list[list[tuple[int, int, str]]]:
        """What is wrong in each of these files, in its order: line and column, from 1, and what is said.

        All are opened first: the server waits a moment for more before it looks at a file.
        """
        for path in paths:
            document = {"uri": path.as_uri(), "languageId": "yaml", "version": 1, "text": path.read_text()}
            self._send({"method": "textDocument/didOpen", "params": {"textDocument": document}})
        return [self._found(path.as_uri()) for path in paths]

    def _found(self, uri: str) -> list[tuple[int, int, str]]:
        while uri not in self._diagnostics:
            self._receive()
        found = [(each["range"]["start"], each["message"]) for each in self._diagnostics[uri]]
        return sorted((start["line"] + 1, start["character"] + 1, message) for start, message in found)

    def hover(self, path: Path, line: int, column: int) -> str:
        """What is shown at a place of a file that `problems` has opened; lines and columns from 1."""
        place = {"line": line - 1, "character": column - 1}
        answer = self.ask("textDocument/hover", {"textDocument": {"uri": path.as_uri()}, "position": place})
        return str(answer["contents"]["value"]) if answer else ""

    def completions(self, path: Path, line: int, column: int) -> list[str]:
        """The labels that are offered at a place of a file that `problems` has opened."""
        place = {"line": line - 1, "character": column - 1}
        answer = self.ask("textDocument/completion", {"textDocument": {"uri": path.as_uri()}, "position": place})
        return [str(item["label"]) for item in answer["items"]]

    def ask(self, method: str, params: Mapping[str, Any]) -> Any:
        """The answer to a request."""
        number = next(self._ids)
        self._send({"id": number, "method": method, "params": params})
        while True:
            message = self._receive()
            if message.get("id") == number and "method" not in message:
                return message.get("result")

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._child.stdin is not None
        data = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self._child.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(data), data))
        self._child.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        """The next message; what the server asks or reports meanwhile is handled."""
        assert self._child.stdout is not None
        headers = dict(line.decode().split(": ", 1) for line in self._header_lines())
        message: dict[str, Any] = json.loads(self._child.stdout.read(int(headers["Content-Length"])))
        if message.get("method") == "textDocument/publishDiagnostics":
            self._diagnostics[message["params"]["uri"]] = message["params"]["diagnostics"]
        elif message.get("method") == "workspace/configuration":
            wanted = [item.get("section") for item in message["params"]["items"]]
            self._send({"id": message["id"], "result": [SETTINGS.get(section, {}) for section in wanted]})
        elif "method" in message and "id" in message:
            self._send({"id": message["id"], "result": None})
        return message

    def _header_lines(self) -> Iterator[bytes]:
        assert self._child.stdout is not None
        while line := self._child.stdout.readline().rstrip(b"\r\n"):
            yield line
        if self._child.poll() is not None:
            raise RuntimeError(f"yaml-language-server has ended with {self._child.returncode}")


if __name__ == "__main__":
    {"install": install, "remove": remove}[sys.argv[1]]()
