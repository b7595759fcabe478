"""Real servers, on free ports of the loopback."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest

from ..conftest import TIMEOUT, until
from ..helpers.services import redis_server

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 6 * TIMEOUT
"""Seconds after which a server counts as hung; it may be starting on a busy machine."""

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Begun in the background of a shell. The servers would ignore it as well.
    signal.signal(signal.SIGINT, signal.default_int_handler)


# The descriptor of the listening socket takes the place of {fd}, the module with the app that of
# {module}.
COMMANDS = {
    "gunicorn": (
        *("gunicorn", "--config", "tests/integration/gunicorn_conf.py", "--bind", "fd://{fd}"),
        *("{options}", "{module}:app"),
    ),
    "waitress": ("tests.helpers.serve", "waitress", "{module}", "{fd}", "{options}"),
    "uvicorn": ("tests.helpers.serve", "uvicorn", "{module}", "{fd}", "{options}"),
    "hypercorn": ("hypercorn", "--bind", "fd://{fd}", "{options}", "{module}:app"),
}


class Program:
    """A program with all its processes, in a process group of their own. Its output is kept."""

    def __init__(
        self,
        log: Path,
        *command: str,
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self._log = log
        with log.open("wb") as output:
            self.process: subprocess.Popen[bytes] = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=pass_fds,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return self._log.read_text("utf-8", errors="replace")

    def says(self, text: str) -> bool:
        """Return whether the program, which has not ended, has written the text."""
        assert self.process.poll() is None, self.log
        return text in self.log

    def stop(self, by: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal to the program, wait until it ends, and return its exit code."""
        self.process.send_signal(by)
        return self.process.wait(PATIENCE)

    def processes_are_left(self) -> bool:
        """Return whether any process of the program's group is alive."""
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def kill(self) -> None:
        """End whatever is left of the group that the program made for itself."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)


@contextmanager
def running(ready: str, log: Path, *command: str, **environment: str) -> Generator[Program]:
    """Run a program until the block ends. The block begins once the log contains ``ready``."""
    program = Program(log, *command, environment=environment)
    try:
        until(lambda: program.says(ready), PATIENCE)
        yield program
    finally:
        program.kill()


PREFORK = ("--pool", "prefork", "--concurrency", "2")
THREADS = ("--pool", "threads", "--concurrency", "4")


def celery_worker(
    folder: Path, name: str, *options: str, **environment: str
) -> AbstractContextManager[Program]:
    """Run a worker of Celery for the app of tests/apps/queued.py."""
    return running(
        " ready.",
        folder / f"{name}.log",
        *(sys.executable, "-m", "celery", "-A", "tests.apps.queued", "worker"),
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        *("--loglevel", "INFO", *options),
        **{"QUEUED_CELERY": "1", "QUEUED_RELEASE": "old", **environment},
    )


class Server(Program):
    """One server with its workers."""

    def __init__(self, log: Path, name: str, module: str, *options: str) -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
            # The server inherits a socket that listens already: no port to guess, nothing to
            # poll; the first request waits in the socket until a worker accepts it.
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            command = [sys.executable, "-m"]
            for word in COMMANDS[name]:
                if word == "{options}":
                    command += options
                else:
                    command.append(word.format(fd=listener.fileno(), module=module))
            super().__init__(log, *command, pass_fds=[listener.fileno()])


ServerFactory = Callable[..., Server]


def leaves_nothing_behind(server: Server) -> bool:
    """What multiprocessing starts beside its processes ends a moment after the server."""
    limit = time.monotonic() + TIMEOUT
    while server.processes_are_left() and time.monotonic() < limit:
        time.sleep(0.01)
    return not server.processes_are_left()


def stop_cleanly(server: Server) -> None:
    assert server.stop() == 0, server.log
    assert leaves_nothing_behind(server), server.log
    assert "Traceback" not in server.log, server.log


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[ServerFactory]:
    """Start a server with these options; what a test does not stop is killed after it."""
    servers: list[Server] = []

    def start(*options: str, server: str = "gunicorn", module: str = "tests.apps.served") -> Server:
        if importlib.util.find_spec(server) is None:
            pytest.skip(f"{server} is not installed")
        log = tmp_path / f"server-{len(servers)}.log"
        servers.append(Server(log, server, module, *options))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.fixture(params=["sqlite", "redis"])
def serve_with_store(
    request: pytest.FixtureRequest,
    serve: ServerFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[[str], Server]]:
    """Serve a module with four processes that share a store, once for each kind of store.

    The module finds the store's address in ``RECORDED_STORE``, and ``tmp_path`` in
    ``RECORDED_FOLDER``.
    """
    monkeypatch.setenv("RECORDED_FOLDER", str(tmp_path))

    def start(module: str) -> Server:
        return serve("--workers", "4", "--threads", "8", module=module)

    if request.param == "sqlite":
        monkeypatch.setenv("RECORDED_STORE", "sqlite:///jobs.db")
        yield start
    else:
        with redis_server() as redis:
            monkeypatch.setenv("RECORDED_STORE", f"redis://127.0.0.1:{redis.port}/0")
            yield start
