"""Apps that are slow or unable to load in a worker process, and jobs that do it harm."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import multiprocessing
import os
import signal
import socket
import stat
import time
from pathlib import Path

from flask import Flask

from flask_executor_typed import current_job

from . import working


def create_app_slowly(folder: str) -> Flask:
    """The first worker loads it at once, the others when there is a file ``go``."""
    folder_ = Path(folder)
    if not _is_first(folder_):
        working.write_pid(folder_ / f"waits-{os.getpid()}")
        while not (folder_ / "go").exists():
            time.sleep(0.01)
    return working.create_app()


def create_app_once(folder: str) -> Flask:
    """Only the first worker can load it."""
    if not _is_first(Path(folder)):
        raise RuntimeError("there is one licence")
    return working.create_app()


def _is_first(folder: Path) -> bool:
    try:
        (folder / "first").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def names() -> tuple[str, int]:
    return multiprocessing.current_process().name, os.getpid()


def log_process_name() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("said by %(processName)s"))
    logger = logging.getLogger("attacked")
    logger.addHandler(handler)
    logger.warning("")


def count_sockets() -> int:
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # of the listing itself
            count += stat.S_ISSOCK(os.stat(f"/proc/self/fd/{name}").st_mode)
    return count


def leave_a_child(path: Path, how: str) -> None:
    """Have a child that outlives this process, and wait."""
    if how == "multiprocessing":
        context = multiprocessing.get_context("fork")
        child = context.Process(target=time.sleep, args=(600,))
        child.start()
        number = child.pid
    else:  # as a library of C does, without telling Python
        libc = ctypes.CDLL(None)
        number = libc.fork()
        if number == 0:
            while True:
                libc.pause()
    path.with_suffix(".new").write_text(f"{os.getpid()} {number}")
    path.with_suffix(".new").replace(path)
    time.sleep(600)


async def fork_in_a_coroutine(path: Path) -> str:
    if os.fork():
        return "parent"
    working.write_pid(path)
    return "child"


def die_in_the_middle_of_an_answer(path: Path) -> None:
    """Send a part of an answer, have a child that holds the socket, and end."""
    libc = ctypes.CDLL(None)
    child = libc.fork()
    if child == 0:
        while True:
            libc.pause()
    path.write_text(str(child))
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        try:
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                sock = socket.socket(fileno=os.dup(descriptor))
                sock.send(b"r" + (1).to_bytes(8, "big") + (1 << 20).to_bytes(8, "big") + b"part")
        except OSError:
            pass
    os.kill(os.getpid(), signal.SIGKILL)


def attempt_and_die(path: Path) -> None:
    working.append(path, str(current_job.attempt))
    os.kill(os.getpid(), signal.SIGKILL)
