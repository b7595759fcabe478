"""Kill workers and the fork server under load, and see that no call is lost that need not be.

``python -m tests.attack.storm [--calls N] [--kills N] [--fork-server N] [--seed S]`` makes as many
calls and kills, or more calls. Exit status 1: a result was wrong, a call ran twice or hung, or one
was lost that had not begun.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import CancelledError, wait
from multiprocessing import forkserver
from pathlib import Path

from flask_executor_typed import Executor, FutureProxy, JobLostError
from flask_executor_typed.backends.process import ProcessBackend

from ..apps import working

HANGS_AFTER = 300.0
"""Seconds without any call that ends; a machine may be twenty times slower than another."""

WAIT = 40
"""Calls that wait at once."""

ANSWER = 100_000
"""Bytes of the answer to each tenth call: more than is read at once."""


def job(path: Path, number: int) -> tuple[int, bytes]:
    working.append(path, str(number))
    time.sleep(0.002 * (number % 5))
    return number, b"x" * (ANSWER if number % 10 == 0 else 0)


class Storm:
    """One run: calls, some of which are cancelled, and kills in between."""

    def __init__(self, folder: Path, calls: int, kills: int, fork_server: int, seed: int) -> None:
        self._runs = folder / "runs"
        self._runs.touch()
        self._calls = calls
        self._kills = kills
        self._fork_server = fork_server
        self._random = random.Random(seed)
        self._over = threading.Event()
        self._ended = threading.Event()  # some call has
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    def run(self, executor: Executor) -> None:
        (app,) = executor._states
        backend = executor._states[app].backend(app)
        assert isinstance(backend, ProcessBackend)
        self._seats = backend._seats
        killer = threading.Thread(target=self._kill)
        killer.start()
        futures: list[FutureProxy[tuple[int, bytes]]] = []
        try:
            while len(futures) < self._calls or killer.is_alive():
                number = len(futures)
                futures.append(executor.submit(job, self._runs, number))
                futures[-1].add_done_callback(lambda _: self._ended.set())
                if self._random.random() < 0.02:
                    futures[-1].cancel(kill=self._random.random() < 0.5)
                if number >= WAIT and not wait([futures[-WAIT]], HANGS_AFTER).done:
                    self.wrong.append(f"{number - WAIT + 1} hangs")
                    return
            for number, future in enumerate(futures):
                self._judge(number, future)
        finally:
            self._over.set()
            self._ended.set()
            killer.join()
        runs = Counter(self._runs.read_text().split())
        self.wrong += [f"{number} ran {count} times" for number, count in runs.items() if count > 1]

    def _judge(self, number: int, future: FutureProxy[tuple[int, bytes]]) -> None:
        try:
            result = future.result(HANGS_AFTER)
        except CancelledError:
            self.counts["cancelled"] += 1
        except JobLostError as error:
            self.counts["lost"] += 1
            if not error.begun:
                self.wrong.append(f"{number} was lost and had not begun: {error}")
        except BaseException as error:
            self.wrong.append(f"{number}: {error!r}")
        else:
            self.counts["done"] += 1
            if result != (number, b"x" * (ANSWER if number % 10 == 0 else 0)):
                self.wrong.append(f"{number} has the result of {result[0]}")

    def _kill(self) -> None:
        # Not active_children(): multiprocessing forgets those whose fork server was killed.
        kills = range(self._kills)
        servers = set(self._random.sample(kills, min(self._fork_server, self._kills)))
        for number in kills:
            # Up to three at once, also of those that start. Then some call must end: a storm that
            # never lets a worker come up ends in errors, as it should.
            if self._random.random() < 0.6:
                self._ended.clear()
                self._ended.wait(HANGS_AFTER)
                if self._over.wait(self._random.uniform(0.0, 0.1)):
                    return
            pid: int | None = getattr(forkserver._forkserver, "_forkserver_pid", None)
            if number in servers and pid is not None:
                self._end("fork server", pid)
                continue
            workers = [seat.worker for seat in self._seats.copy() if seat.worker is not None]
            if workers:
                self._end("worker", self._random.choice(workers)._process.pid)

    def _end(self, what: str, pid: int | None) -> None:
        assert pid is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.counts[f"{what} killed"] += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--kills", type=int, default=650)
    parser.add_argument("--fork-server", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    app = working.create_app(EXECUTOR_MAX_WORKERS=3, EXECUTOR_LOG_EXCEPTIONS=False)
    with tempfile.TemporaryDirectory() as folder, Executor(app) as executor:
        storm = Storm(Path(folder), given.calls, given.kills, given.fork_server, given.seed)
        storm.run(executor)
    print(dict(storm.counts))
    for each in storm.wrong:
        print("WRONG:", each)
    return bool(storm.wrong)


if __name__ == "__main__":
    sys.exit(main())
