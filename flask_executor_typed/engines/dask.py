"""Dask as an engine. The only module that imports Dask."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from functools import partial
from importlib import import_module
from typing import Any
from weakref import WeakSet

from flask import Flask

from ..backends import Capabilities
from ..backends.runner import load_app
from ..errors import ConfigError, JobFailedError
from ..runtime.exit import AtExit, close_at_exit, exit_has_begun
from ..runtime.forks import in_child
from ..runtime.threads import DaemonThread, start_thread
from ..stores.protocol import Hazard
from .protocol import Message, Route
from .worker import run_message

__all__ = ("DaskEngine",)

_PATIENCE = 5.0
"""Seconds that the scheduler may take to accept a connection. A guess."""

_PAUSES = (1.0, 60.0)
"""Seconds between attempts to publish what a scheduler that is gone has forgotten: the first time,
and at most, after twice as many each time. A guess."""


class DaskEngine:
    """Sends messages through a Dask scheduler, to plain workers of it, which load the app.

    Args:
        key_of_type: The setting that names this engine, for messages.
        address: The scheduler's.
        key_of_app: The setting with the next one, for messages.
        app: Where workers find the app.

    Raises:
        ConfigError: Dask is not installed.
    """

    name: str = "EXECUTOR_TYPE='dask'"

    capabilities: Capabilities = Capabilities(
        contexts=True,
        coroutines=True,
        progress=True,
        cancel_running=True,
        time_limits=True,
        retries=True,
        routing=True,
    )

    def __init__(self, key_of_type: str, address: str, key_of_app: str, app: str) -> None:
        try:
            self._dask: Any = import_module("distributed")
        except ImportError:
            expected = "Dask to be installed: pip install 'flask-executor-typed[dask]'"
            raise ConfigError(key_of_type, "dask", expected) from None
        self._address = address
        self._where = (key_of_app, app)
        self._forget_client()
        _engines.add(self)

    def _forget_client(self) -> None:
        self._connecting = threading.Lock()
        self._client: Any = None  # this and the next: set under _connecting
        self._failed_at = 0.0
        self._guard = threading.Lock()  # held for moments only
        self._lost: deque[tuple[Message, Route]] = deque()  # this and the next: guarded by _guard
        self._is_recovering = False
        self._stopped = threading.Event()
        close_at_exit(self, AtExit())

    def publish(self, message: Message, route: Route) -> None:
        # Without pure=False, Dask would take two jobs with the same arguments for one. The key
        # begins with what its dashboard shows. Without fire_and_forget(), the end of this process
        # would cancel the task.
        key = (message.name, message.id, message.attempt)
        future = self._connected().submit(
            *(_run, self._where, *message),
            key=key,
            pure=False,
            priority=route.priority or 0,
            resources=None if route.queue is None else {route.queue: 1},
        )
        self._dask.fire_and_forget(future)
        future.add_done_callback(partial(self._note_end, message, route))

    def hazards(self) -> Iterator[Hazard]:
        """Yield the dangers in the address of the scheduler. Connects to nothing."""
        scheme, _, rest = self._address.rpartition("://")
        host = rest.rpartition(":")[0].strip("[]")
        if scheme != "tls" and not (host in ("localhost", "::1") or host.startswith("127.")):
            yield Hazard(
                "dask-without-tls",
                f"Anyone who reaches {self._address}, or the port of a worker, can run code there: "
                "without TLS, Dask signs and encrypts nothing.",
                "Use an address with tls:// and certificates in Dask's own configuration, or see "
                "that only your machines reach these ports.",
                must_mend=False,
            )

    def _connected(self) -> Any:
        """Return a client that is connected, made by the first job or after the last one broke."""
        asked_at = time.monotonic()
        with self._connecting:
            client = self._client
            # It keeps what it is given while it connects again, and forgets that when it gives up.
            while client is not None and client.status == "connecting":
                time.sleep(0.01)  # for _PATIENCE at most
            if client is not None and client.status == "running":
                return client
            if self._failed_at > asked_at:  # another thread has just tried, while this one waited
                raise ConnectionError(f"no Dask scheduler answers at {self._address}")
            self._client = None
            try:
                # First: a client that finds no scheduler leaves a thread behind, with its loop.
                _check_port(self._address)
                self._client = self._dask.Client(
                    self._address, timeout=_PATIENCE, set_as_default=False
                )
            except BaseException:
                self._failed_at = time.monotonic()
                raise
            return self._client

    def _note_end(self, message: Message, route: Route, future: Any) -> None:
        """Note that a task is over, or that the scheduler has forgotten it. In a thread of Dask."""
        if future.status in ("cancelled", "lost"):
            with self._guard:
                if self._stopped.is_set():
                    return
                self._lost.append((message, route))
                if not self._is_recovering and not exit_has_begun():
                    thread = start_thread("executor-dask", self._publish_lost)
                    assert isinstance(thread, DaemonThread)
                    thread.leave_behind()  # at exit: the scheduler may never come back
                    self._is_recovering = True
            return
        # If the task was over before the scheduler heard of fire_and_forget(), it would keep it.
        release = {"op": "client-releases-keys", "keys": [future.key], "client": "fire-and-forget"}
        with contextlib.suppress(Exception):  # the client was closed meanwhile
            future.client._send_to_scheduler(release)
        if future.status == "error":
            error = future.exception()
            logging.getLogger("flask_executor_typed").error(
                "Dask cannot run the background job %s [%s], which stays pending: %s: %s",
                *(message.name, message.id, type(error).__name__, error),
            )

    def _publish_lost(self) -> None:
        """Publish once more what the scheduler has forgotten: what was begun is not run again."""
        pause, longest = _PAUSES
        while True:
            with self._guard:
                if not self._lost:
                    self._is_recovering = False
                    return
                lost, self._lost = self._lost, deque()
            while lost:
                try:
                    self.publish(*lost[0])
                except Exception:  # the scheduler is away still
                    break
                lost.popleft()
            with self._guard:
                if not self._stopped.is_set():
                    self._lost.extendleft(reversed(lost))
            self._stopped.wait(pause)
            pause = min(2 * pause, longest)

    def stop(self) -> None:
        """Publish nothing again from now on: the executor is shut down."""
        with self._guard:  # whatever is lost after this, _note_end() and the thread leave alone
            self._stopped.set()
            self._lost.clear()

    def forget_parent(self) -> None:
        """In the child of a fork: the client's thread and connection are the parent's."""
        _of_parents.append(self._client)
        self._forget_client()

    # -- Closable: a client sends later what it is given, and would not at exit --------------------

    def close(self, *, cancel_pending: bool) -> None: ...

    def runs_here(self) -> bool:
        return False

    def wait(self, end: float) -> bool:
        """Send what was published. A job that still runs in this process may publish more."""
        with self._connecting:
            client, self._client = self._client, None
        if client is not None and client.status == "running":
            with contextlib.suppress(Exception):  # the scheduler may be gone
                client.close()
        return True

    def abandon(self, seconds: float) -> None: ...

    def kill(self) -> bool:
        return False

    def leave_behind(self) -> None: ...


def _check_port(address: str) -> None:
    """Raise an ``OSError`` if nothing listens there."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()


_engines: WeakSet[DaskEngine] = WeakSet()
_of_parents: list[object] = []
"""Clients of parent processes. Their finalizers would wait for threads that this one lacks."""


@in_child
def _forget_parent() -> None:
    for engine in list(_engines):
        engine.forget_parent()


# -- in a worker -----------------------------------------------------------------------------------

_apps: dict[str, Flask] = {}  # guarded by _loading
_loading = threading.Lock()


def _run(where: tuple[str, str], *message: Any) -> None:
    """Run a message's job in a thread of a Dask worker."""
    _load(*where)
    with contextlib.suppress(JobFailedError):  # which this worker has logged
        run_message(*message, while_waiting=_out_of_pool)


def _load(key: str, path: str) -> None:
    """Load the app, once in each process. Jobs that come meanwhile wait."""
    with _loading:
        if path not in _apps:
            _apps[path] = load_app(key, path)


@contextlib.contextmanager
def _out_of_pool() -> Generator[None, None, None]:
    """Have another thread take this one's place in the worker until the block ends."""
    dask, pool = import_module("distributed"), import_module("distributed.threadpoolexecutor")
    if not pool.thread_state.proceed:  # the job has left by itself
        yield
        return
    dask.secede()
    try:
        yield
    finally:
        with contextlib.suppress(RuntimeError):  # the worker is ending
            dask.rejoin()
