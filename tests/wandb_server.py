"""A server of Weights & Biases, as far as `wandb sync` needs one: it keeps the lines of history that runs send."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Received:
    """What was sent: lines of history by run and number, and the variables of each run."""

    address: str
    lines: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def answer(self, path: str, body: bytes) -> Any:
        """The answer to one request."""
        if path == "/graphql":
            return self._answer_query(json.loads(body))
        if path.endswith("/file_stream"):
            run = path.split("/")[-2]
            history = json.loads(body).get("files", {}).get("wandb-history.jsonl", {})
            for number, line in enumerate(history.get("content", ()), history.get("offset", 0)):
                self.lines.setdefault(run, {})[number] = json.loads(line)
        return {}

    def _answer_query(self, query: dict[str, Any]) -> Any:
        if query.get("operationName") == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.address}/upload"} for name in query["variables"]["files"]]
            return {"data": {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}}
        if query.get("operationName") != "UpsertBucket":
            return {"data": {"viewer": {"id": "1", "entity": "me", "username": "me", "flags": "{}"}}}
        reported = query["variables"]
        self.runs.setdefault(reported["name"], {}).update(
            {key: value for key, value in reported.items() if value is not None}
        )
        project = {"id": "1", "name": reported["project"], "entity": {"id": "1", "name": "me"}}
        bucket = {"id": "1", "name": reported["name"], "config": "{}", "project": project, "historyLineCount": 0}
        return {"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}


@contextmanager
def wandb_server() -> Iterator[Received]:
    """A server on this machine, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            answer = json.dumps(received.answer(self.path, body)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def do_PUT(self) -> None:
            self.do_POST()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    received = Received(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
