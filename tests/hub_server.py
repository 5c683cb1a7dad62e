"""A hub of models on this machine: of `huggingface_hub`'s calls, those for reading."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Hub(ThreadingHTTPServer):
    """Serves models: name -> revision -> folder.

    Attributes:
        asked: path and token of every request for a file's content.
    """

    def __init__(self, models: Mapping[str, Mapping[str, Path]]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.models = models
        self.asked: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"] and parts[4:5] in (["revision"], ["tree"]):
            self._tell_about("/".join(parts[2:4]), parts[5], parts[4] == "tree")
        elif parts[2:3] == ["resolve"]:
            self._give("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self._answer(404, b"")

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _folder(self, name: str, revision: str) -> tuple[str, Path] | None:
        for tag, folder in self.server.models.get(name, {}).items():
            commit = hashlib.sha1(tag.encode()).hexdigest()
            if revision in (tag, commit):
                return commit, folder
        return None

    def _tell_about(self, name: str, revision: str, tree: bool) -> None:
        found = self._folder(name, revision)
        if found is None:
            self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            return
        commit, folder = found
        about = {"id": name, "sha": commit, "siblings": []}
        files = [
            {
                "type": "file",
                "path": path.name,
                "size": path.stat().st_size,
                "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
            }
            for path in sorted(folder.iterdir())
        ]
        self._answer(200, json.dumps(files if tree else about).encode())

    def _give(self, name: str, revision: str, file: str) -> None:
        found = self._folder(name, revision)
        if found is None or not (found[1] / file).exists():
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        content = (found[1] / file).read_bytes()
        tag = hashlib.sha1(content).hexdigest()
        if self.command == "GET":
            self.server.asked.append((file, self.headers.get("Authorization")))
        self._answer(200, content, {"ETag": f'"{tag}"', "X-Repo-Commit": found[0]})

    def _answer(
        self, status: int, content: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Length": str(len(content)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@contextmanager
def serving(models: Mapping[str, Mapping[str, Path]]) -> Iterator[Hub]:
    """Serve models while the block runs."""
    hub = Hub(models)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
