"""Run steps in two lanes, print the output of each when it ends, and print a summary.

The only module that starts processes, so that none is left when a run ends, however it ends. A step
begins once the steps in its ``after`` have ended, whether they passed or not.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

__all__ = ("Limits", "Shell", "Skipped", "Step", "StepFailed", "Work", "run_steps")

NOTHING_TO_DO = 77
"""The exit code of a command that skips its step."""

MARK = "CI_STEP"
"""The environment variable that marks the processes of a step, even in other groups."""


class StepFailed(Exception):  # noqa: N818  # not an error of this program
    """A command failed, took too long, or could not start in time."""


class Skipped(Exception):  # noqa: N818
    """A step has nothing to do here. The message says why."""


Work = Callable[["Shell"], None]
"""A part of a step. Raises StepFailed or Skipped."""


@dataclass(frozen=True, eq=False)
class Step:
    name: str
    work: tuple[Work, ...]
    after: tuple[Step, ...] = ()


@dataclass(frozen=True)
class Limits:
    """The time limits of a run, in seconds."""

    command: float
    """How long a command may take."""
    total: float
    """How long the run may take. Then running commands are ended, and no other is started."""
    kill_after: float = 20.0
    """How long a command may take to exit when it is asked to, before it is killed."""
    heartbeat: float = 60.0
    """The longest time without output."""


def run_steps(steps: Sequence[Step], limits: Limits, logs: Path, lanes: int = 2) -> int:
    """Run all steps and print the summary. Return the exit code: 0 if no step failed.

    The first step in the list that may begin is the next. SIGINT, SIGTERM and SIGHUP end the run.
    Must be called in the main thread, which prints. Each lane is another thread.
    """
    processes = _Processes(limits)
    logs.mkdir(parents=True, exist_ok=True)
    waiting, over = list(steps), list[_Run]()
    running: dict[Future[None], _Run] = {}
    with _signals_that_end(processes) as signals, ThreadPoolExecutor(lanes) as pool:
        try:
            while waiting or running:
                if signals:
                    waiting.clear()
                ended = {run.step for run in over}
                ready = [step for step in waiting if ended.issuperset(step.after)]
                for step in ready[: lanes - len(running)]:
                    waiting.remove(step)
                    run = _Run(step, logs / f"{len(over) + len(running):02}.log")
                    running[pool.submit(run, processes)] = run
                if waiting and not running:
                    raise ValueError(f"steps that wait for each other: {waiting}")
                done, _ = wait(running, limits.heartbeat, FIRST_COMPLETED)
                for future in done:
                    over.append(running.pop(future))
                    over[-1].show()
                if running and not done:
                    names = [f"{run.step.name} ({run.seconds} s)" for run in running.values()]
                    print(f"\n... after {processes.age:.0f} s:", ", ".join(names), flush=True)
        finally:
            processes.close()
            wait(running)
            for run in running.values():
                run.show()
    if signals:
        sys.exit(128 + signals[0])
    print(f"\n=== Summary, after {processes.age:.0f} s", *over, sep="\n")
    passed, failed, skipped = (
        sum(run.outcome == outcome for run in over) for outcome in ("passed", "FAILED", "skipped")
    )
    for run in over:
        if run.outcome == "FAILED":  # again, for readers of the end alone
            print(f"\n=== The last lines of: {run.step.name}", *run.last_lines(), sep="\n")
    print(f"\n{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return int(failed > 0)


@dataclass
class _Run:
    """A step that is running or has run."""

    step: Step
    log: Path
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None
    outcome: str = "FAILED"
    reason: str = ""

    def __call__(self, processes: _Processes) -> None:
        """Run the step in this thread."""
        with self.log.open("wb") as output:
            shell = Shell(processes, output)
            try:
                processes.time_left()
                for work in self.step.work:
                    work(shell)
                self.outcome = "passed"
            except Skipped as skipped:
                self.outcome, self.reason = "skipped", str(skipped)
            except StepFailed as failed:
                self.reason = str(failed)
            except Exception as error:
                self.reason = repr(error)
            finally:
                shell.close()
        self.ended = time.monotonic()

    @property
    def seconds(self) -> int:
        return int((self.ended or time.monotonic()) - self.began)

    def show(self) -> None:
        """Print the step's whole output."""
        print(f"\n=== {self.step.name}", flush=True)
        output = self.log.read_bytes()
        sys.stdout.buffer.write(output if output.endswith(b"\n") or not output else output + b"\n")
        print(f"--- {self.step.name}: {self.outcome} ({self.seconds} s){self._because}", flush=True)

    def last_lines(self, count: int = 12) -> list[str]:
        return self.log.read_text(errors="replace").splitlines()[-count:]

    def __str__(self) -> str:
        return f"{self.outcome:<7} {self.seconds:>4} s  {self.step.name}{self._because}"

    @property
    def _because(self) -> str:
        return f": {self.reason}" if self.reason else ""


class Shell:
    """Runs the commands of a step, one after the other, with their output in one file."""

    def __init__(self, processes: _Processes, output: IO[bytes]) -> None:
        self._processes = processes
        self._output = output
        self._mark = str(uuid.uuid4())

    def run(
        self,
        *command: str | Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Run a command to its end, with ``env`` added to the environment.

        Raises:
            StepFailed: the command took too long, or its exit code is not 0.
            Skipped: its exit code is 77.
        """
        words = [str(word) for word in command]
        environment = {**os.environ, **(env or {}), MARK: self._mark}
        code = self._processes.run(words, cwd, environment, self._output)
        if code == NOTHING_TO_DO:
            raise Skipped
        if code:
            raise StepFailed(f"exit code {code} from {shlex.join(words)}")

    def close(self) -> None:
        """Kill the processes that the commands have left behind."""
        _kill_marked(self._mark)


class _Processes:
    """The running processes. Thread-safe."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._began = time.monotonic()
        self._lock = threading.RLock()  # a signal handler may call close() in close()
        self._running: set[int] = set()  # guarded by _lock
        self._closed = False  # guarded by _lock

    @property
    def age(self) -> float:
        return time.monotonic() - self._began

    def time_left(self) -> float:
        """Return how many seconds a command may take if it starts now."""
        left = self._limits.total - self.age
        if left <= 0:
            raise StepFailed(f"out of time: {self._limits.total:.0f} s are over")
        return min(left, self._limits.command)

    def run(
        self,
        command: Sequence[str],
        cwd: Path | None,
        env: Mapping[str, str],
        output: IO[bytes],
    ) -> int:
        """Run a command in a process group of its own, and return its exit code."""
        limit = self.time_left()
        # If this takes the lock first, close() kills the process; if close() does, none is started.
        with self._lock:
            if self._closed:
                raise StepFailed("the run was ended")
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            self._running.add(process.pid)
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            _kill_group(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(self._limits.kill_after)
            raise StepFailed(f"took longer than {limit:.0f} s: {shlex.join(command)}") from None
        finally:
            _kill_group(process.pid, signal.SIGKILL)
            process.wait()
            with self._lock:
                self._running.discard(process.pid)

    def close(self) -> None:
        """Kill the running processes. The threads that wait for them then clean up."""
        with self._lock:
            self._closed = True
            for pid in list(self._running):
                _kill_group(pid, signal.SIGKILL)


def _kill_group(pid: int, by: signal.Signals) -> None:
    # Usually, no process is left in it. macOS does not allow signals to one that was just killed.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, by)


def _kill_marked(mark: str) -> None:
    """Kill the processes of a step that have left their group. Finds them on Linux only."""
    for _ in range(100):  # one may be forking just now
        marked = list(_processes_with(f"{MARK}={mark}".encode()))
        if not marked:
            return
        for pid in marked:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _processes_with(variable: bytes) -> Iterator[int]:
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # the process has ended, or is another user's
            if variable in environment.read_bytes().split(b"\0"):
                yield int(environment.parent.name)


@contextlib.contextmanager
def _signals_that_end(processes: _Processes) -> Generator[list[int]]:
    """End the processes on a signal that ends a program. Yield the numbers of such signals.

    The handler raises nothing: the main thread may just be starting a lane, which an exception
    would leave running and unknown.
    """
    received: list[int] = []

    def end(number: int, _: object) -> None:
        received.append(number)
        processes.close()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [(number, signal.signal(number, end)) for number in numbers]
    try:
        yield received
    finally:
        for number, handler in before:
            signal.signal(number, handler)
