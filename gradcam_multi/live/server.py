"""A server of files for this machine alone, that gives a page the threads it may use."""

import functools
import http.server
from pathlib import Path

from gradcam_multi.errors import ExportError
from gradcam_multi.live.site import folder_policy

HOST = "127.0.0.1"


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder's files with their types, and headers that isolate the page."""

    # A system's own table may hold others, and browsers run no script of another type.
    extensions_map = {  # noqa: RUF012 - the base class has it so
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".css": "text/css",
        ".html": "text/html; charset=utf-8",
        ".txt": "text/plain; charset=utf-8",
        ".wasm": "application/wasm",
        ".onnx": "application/octet-stream",
    }
    protocol_version = "HTTP/1.1"

    def parse_request(self) -> bool:
        """Read a request; refuse those that name another host (DNS rebinding)."""
        if not super().parse_request():
            return False
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        if host not in (HOST, "localhost"):
            self.send_error(421, "this server is for this machine")
            return False
        return True

    def end_headers(self) -> None:
        """Add what isolates the page, so that it may share memory between threads."""
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Content-Security-Policy", f"{folder_policy()}; frame-ancestors 'none'")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def list_directory(self, path: object) -> None:
        """List nothing: there is one page."""
        self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a page's requests are no news."""


def make_server(folder: str | Path, port: int = 0) -> http.server.ThreadingHTTPServer:
    """Return a server of a folder on 127.0.0.1, to be started with serve_forever.

    Port 0 takes one that is free; `server_port` then says which. Raises ExportError where the port
    is taken.
    """
    handler = functools.partial(Handler, directory=str(folder))
    try:
        return http.server.ThreadingHTTPServer((HOST, port), handler)
    except OSError as error:
        raise ExportError(
            f"port {port} of {HOST} cannot be served: {error.strerror}; give another --port"
        ) from error
