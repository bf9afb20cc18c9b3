"""ModelScope's hub as its client library sees it: the list of a model's files, and each file from any byte on."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


class Hub:
    """Serves `files` of one model on loopback, and remembers what it was asked for."""

    def __init__(self, model: str, files: dict[str, bytes]) -> None:
        self.files = files
        self.asked: list[str] = []
        self.broken: set[str] = set()
        """files whose transfer breaks off half-way"""
        self._model = model
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub._answer(self)

            do_HEAD = do_GET

            def log_message(self, *arguments: object) -> None:
                """Nothing is written."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def running(self) -> Iterator["Hub"]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(request.path)
        query = parse_qs(parts.query)
        base = f"/api/v1/models/{self._model}/repo"
        if parts.path == f"{base}/files":
            self.asked.append("the list")
            self._send(
                request, json.dumps({"Code": 200, "Success": True, "Data": {"Files": self._listing()}}).encode()
            )
        elif parts.path == base and query.get("FilePath", [""])[0] in self.files:
            name = query["FilePath"][0]
            self.asked.append(name)
            self._send(request, self.files[name], broken=name in self.broken)
        else:
            request.send_response(404)
            request.send_header("Content-Length", "0")
            request.end_headers()

    def _listing(self) -> list[dict[str, object]]:
        return [
            {
                "Name": name.rpartition("/")[2],
                "Path": name,
                "Type": "blob",
                "Size": len(content),
                "Sha256": hashlib.sha256(content).hexdigest(),
                "Revision": "master",
            }
            for name, content in self.files.items()
        ]

    def _send(self, request: BaseHTTPRequestHandler, content: bytes, *, broken: bool = False) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        first = int(wanted[1]) if wanted else 0
        last = min(int(wanted[2]) if wanted and wanted[2] else len(content) - 1, len(content) - 1)
        body = content[first : last + 1]
        request.send_response(206 if wanted else 200)
        if wanted:
            request.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if request.command == "HEAD":
            return
        if broken:
            request.wfile.write(body[: len(body) // 2])
            request.close_connection = True
        else:
            request.wfile.write(body)
