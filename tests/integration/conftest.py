"""Real servers, on free ports of the loopback."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ..conftest import TIMEOUT

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 6 * TIMEOUT
"""Seconds after which a server counts as hung; it may be starting on a busy machine."""


class Server:
    """One gunicorn with its workers, in a process group of their own."""

    def __init__(self, log: Path, *options: str) -> None:
        self._log = log
        with (
            socket.create_server(("127.0.0.1", 0), backlog=1024) as listener,
            log.open("wb") as output,
        ):
            # The server inherits a socket that listens already: no port to guess, nothing to
            # poll; the first request waits in the socket until a worker accepts it.
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            bind = ("--bind", f"fd://{listener.fileno()}")
            settings = ("--config", "tests/integration/gunicorn_conf.py")
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "gunicorn", *settings, *bind, *options),
                    "tests.integration.served:app",
                ],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[listener.fileno()],
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return self._log.read_text("utf-8", errors="replace")

    def stop(self) -> int:
        """Send SIGTERM to the server and wait until it ends; its exit code."""
        self._process.terminate()
        return self._process.wait(PATIENCE)

    def processes_are_left(self) -> bool:
        """Whether any process of the server's group is alive."""
        try:
            os.killpg(self._process.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def kill(self) -> None:
        """End whatever is left of the group that the server made for itself."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(PATIENCE)


ServerFactory = Callable[..., Server]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[ServerFactory]:
    """Start a gunicorn with these options; what a test does not stop is killed after it."""
    if importlib.util.find_spec("gunicorn") is None:
        pytest.skip("gunicorn is not installed")
    servers: list[Server] = []

    def start(*options: str) -> Server:
        servers.append(Server(tmp_path / f"server-{len(servers)}.log", *options))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()
