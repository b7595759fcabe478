"""The services that tests use, and their installation: Redis, Chromium, axe-core.

``python3 dev.py services`` installs the missing ones. The tests of a missing service fail, unless
``CI_WITHOUT``, a comma-separated list, names it. The list may also name Celery, Dask and RQ.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = (
    "RedisServer",
    "axe_core_path",
    "chromedriver_path",
    "chromium_path",
    "install",
    "redis_path",
    "redis_server",
    "skip_without",
    "without",
)

NAMES = frozenset({"redis", "chromium", "npm", "celery", "dask", "rq"})
"""The names allowed in ``CI_WITHOUT``."""

PATIENCE = 60.0
"""Seconds after which a starting or stopping service counts as hung, even on a busy machine."""

_AXE_CORE_VERSION = "4.14.1"
_NPM_FOLDER = Path(__file__).resolve().parents[2] / ".ci" / "work"
_AXE_CORE_SCRIPT = _NPM_FOLDER / "node_modules" / "axe-core" / "axe.min.js"


def without(name: str) -> bool:
    """Return whether ``CI_WITHOUT`` leaves out the tests of a service.

    Raises:
        ValueError: the name, or one in ``CI_WITHOUT``, is unknown.
    """
    left_out = {word.strip() for word in os.environ.get("CI_WITHOUT", "").split(",")} - {""}
    if unknown := sorted({name, *left_out} - NAMES):
        raise ValueError(f"no service: {', '.join(unknown)}; expected one of {sorted(NAMES)}")
    return name in left_out


def skip_without(name: str) -> None:
    """Skip the test, or the whole module, if ``CI_WITHOUT`` names the service."""
    import pytest  # here, because the installation does not need it

    if without(name):
        pytest.skip(f"CI_WITHOUT names {name}", allow_module_level=True)


# -- where they are --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Service:
    name: str
    """The name in ``CI_WITHOUT``."""
    package: str
    """The Debian package; of axe-core, the npm package."""
    find: Callable[[], Path | None]

    def path(self) -> Path:
        skip_without(self.name)
        if (found := self.find()) is None:
            raise FileNotFoundError(
                f"{self.package} is not installed: python3 dev.py services installs it on Debian; "
                f"CI_WITHOUT={self.name} leaves its tests out"
            )
        return found


def _program(*names: str) -> Callable[[], Path | None]:
    return lambda: next((Path(found) for found in map(shutil.which, names) if found), None)


_REDIS = _Service("redis", "redis-server", _program("redis-server"))
_CHROMIUM = _Service("chromium", "chromium", _program("chromium", "google-chrome"))
_DRIVER = _Service("chromium", "chromium-driver", _program("chromedriver"))
_NPM = _Service("npm", "npm", _program("npm"))
_AXE_CORE = _Service(
    "npm", "axe-core", lambda: _AXE_CORE_SCRIPT if _AXE_CORE_SCRIPT.exists() else None
)


def redis_path() -> Path:
    """Return the executable of Redis, like :func:`chromium_path`."""
    return _REDIS.path()


def chromium_path() -> Path:
    """Return the browser's executable. Skips the test if ``CI_WITHOUT`` names chromium.

    Raises:
        FileNotFoundError: it is not installed.
    """
    return _CHROMIUM.path()


def chromedriver_path() -> Path:
    """Return the executable of the browser's WebDriver, like :func:`chromium_path`."""
    return _DRIVER.path()


def axe_core_path() -> Path:
    """Return the script that checks pages for accessibility.

    Skips the test if ``CI_WITHOUT`` names npm.

    Raises:
        FileNotFoundError: it is not installed.
    """
    return _AXE_CORE.path()


def install() -> list[str]:
    """Install the missing services. Return the names of those still missing.

    Anything but axe-core is installed only as root, on a system with apt-get.
    """
    wanted = [service for service in (_REDIS, _CHROMIUM, _DRIVER) if not without(service.name)]
    if not (without("npm") or _AXE_CORE.find()):
        wanted.append(_NPM)
    packages = [service.package for service in wanted if service.find() is None]
    if packages and shutil.which("apt-get") and os.geteuid() == 0:
        _run("apt-get", "-qq", "update")
        _run("apt-get", "-qq", "install", "--yes", "--no-install-recommends", *packages)
    if _NPM in wanted and (npm := _NPM.find()):
        options = ("--no-save", "--no-package-lock", "--no-audit", "--no-fund", "--silent")
        _run(npm, "install", "--prefix", _NPM_FOLDER, *options, f"axe-core@{_AXE_CORE_VERSION}")
    everything = (_REDIS, _CHROMIUM, _DRIVER, _AXE_CORE)
    missing = [one for one in everything if not without(one.name) and one.find() is None]
    for service in missing:
        print(f"{service.package} is missing, for the tests of {service.name}", flush=True)
    return sorted({service.name for service in missing})


def _run(*command: str | Path) -> None:
    print("$", *command, flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=False)


# -- starting them ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class RedisServer:
    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"


@contextmanager
def redis_server(*options: str, port: int = 0) -> Generator[RedisServer]:
    """Run an empty Redis on 127.0.0.1 until the block ends. It saves nothing.

    ``options`` go to redis-server's command line. With ``port``, a stopped server can be started
    again at the same address. Skips the test if ``CI_WITHOUT`` names redis.

    Raises:
        FileNotFoundError: Redis is not installed.
        RuntimeError: it did not start. The message contains its log.
    """
    program = _REDIS.path()
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        log = Path(folder, "log")
        for _ in range(1 if port else 10):
            chosen = port or _free_port()
            with log.open("wb") as output:
                process = subprocess.Popen(
                    [
                        *(program, "--bind", "127.0.0.1", "--port", str(chosen), "--dir", folder),
                        *("--save", "", "--appendonly", "no", *options),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                )
            try:
                if _is_ready(process, log):
                    yield RedisServer(chosen, process)
                    return
            finally:
                process.kill()
                process.wait(PATIENCE)
            # Another program has taken the port before Redis could: try another one.
        raise RuntimeError(f"redis-server did not start:\n{log.read_text(errors='replace')}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _is_ready(process: subprocess.Popen[bytes], log: Path) -> bool:
    """Wait until Redis listens; ``False`` if it has ended."""
    limit = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < limit:
        if b"Ready to accept connections" in log.read_bytes():
            return True
        time.sleep(0.01)
    return False
