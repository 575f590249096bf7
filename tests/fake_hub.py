"""A stand-in Hub on loopback: serves the files of one folder as a repository at one commit.

It answers what a download of one file asks for: HEAD and GET of `/{repo}/resolve/{commit}/{file}`.
"""

from __future__ import annotations

import hashlib
import http.server
import threading
from pathlib import Path
from types import TracebackType

REPO = "someone/weights"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """Serves while the `with` block runs. `requests` holds (method, path, has a token)."""

    def __init__(self, folder: Path):
        self.requests: list[tuple[str, str, bool]] = []
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.requests.append((self.command, self.path, "authorization" in self.headers))
                *repo, resolve, commit, name = self.path.strip("/").split("/")
                if "/".join(repo) != REPO or resolve != "resolve":
                    self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
                elif commit != COMMIT:
                    self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
                elif not (folder / name).is_file():
                    headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
                    self.answer(404, b"", headers)
                else:
                    body = (folder / name).read_bytes()
                    etag = f'"{hashlib.sha256(body).hexdigest()}"'
                    self.answer(200, body, {"ETag": etag, "X-Repo-Commit": COMMIT})

            do_HEAD = do_GET

            def answer(self, code: int, body: bytes, headers: dict[str, str]) -> None:
                self.send_response(code)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> FakeHub:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.server.shutdown()
        self.server.server_close()
