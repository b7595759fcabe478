"""A weather service of our own, so that the demo needs no internet: it counts its connections."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ("WeatherService", "weather_service")

WEATHERS = ("sunny", "cloudy", "rain", "wind", "snow")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open
    wbufsize = 8192  # head and body in one packet

    def setup(self) -> None:
        super().setup()
        self._service.count(connections=1)

    def do_GET(self) -> None:
        self._service.count(requests=1)
        body = WEATHERS[sum(self.path.encode()) % len(WEATHERS)].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    @property
    def _service(self) -> WeatherService:
        assert isinstance(self.server, WeatherService)
        return self.server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name
        """Stay quiet."""


class WeatherService(ThreadingHTTPServer):
    """``GET /<city>`` gives one word."""

    daemon_threads = True
    block_on_close = False  # a client that keeps its connection open is not waited for
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.connections = self.requests = 0  # guarded by _lock
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def count(self, connections: int = 0, requests: int = 0) -> None:
        with self._lock:
            self.connections += connections
            self.requests += requests


@contextmanager
def weather_service() -> Generator[WeatherService]:
    """Serve on a free port of the loopback until the block ends."""
    with WeatherService() as service:
        thread = threading.Thread(target=service.serve_forever, daemon=True)
        thread.start()
        try:
            yield service
        finally:
            service.shutdown()
            thread.join()
