"""Stop a thread before each bytecode instruction of the package, one after the other."""

from __future__ import annotations

import dis
import gc
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import flask_executor_typed

__all__ = ("EVERY", "at_each_call", "at_each_step")

EVERY = int(os.environ.get("ATTACK_EVERY", "16"))
"""Of the places of long actions, each 16th is tried; by ``dev.py attack``, all of them."""

PACKAGE = str(Path(flask_executor_typed.__file__).parent)

Prepare = Callable[[], tuple[Callable[[], object], Callable[[], object]]]
"""Returns an action, made anew for each time, and what is called where it is stopped. If that
returns, the action goes on."""


def at_each_step(prepare: Prepare, *rooms: str, every: int = 1) -> Iterator[BaseException | None]:
    """Run an action again and again, and stop it at another instruction each time.

    ``rooms`` are the folders and files of the package whose instructions count: all without any.
    Yields what the action raised, after each time.
    """
    yield from _at_each(prepare, rooms, every, lambda frame, last: True)


def at_each_call(prepare: Prepare, *rooms: str, every: int = 1) -> Iterator[BaseException | None]:
    """The same, only where the interpreter runs signal handlers: after calls, and at the start of
    a function. Elsewhere an exception would break ``with`` blocks, which no signal can.
    """
    yield from _at_each(
        prepare,
        rooms,
        every,
        lambda frame, last: last is None or dis.opname[last].startswith("CALL"),
    )


def _at_each(
    prepare: Prepare,
    rooms: tuple[str, ...],
    every: int,
    counts: Callable[[FrameType, int | None], bool],
) -> Iterator[BaseException | None]:
    for number in itertools.count(0, every):
        action, instead = prepare()
        stepper = _Stepper(number, instead, rooms, counts)
        yield stepper.run(action)
        if stepper.left >= 0:
            return  # it has not so many steps


class _Stepper:
    def __init__(
        self,
        number: int,
        instead: Callable[[], object],
        rooms: tuple[str, ...],
        counts: Callable[[FrameType, int | None], bool],
    ) -> None:
        self.left = number
        self._instead = instead
        self._folders = tuple(f"{PACKAGE}/{room}" for room in rooms or [""])
        self._counts = counts
        self._last: dict[FrameType, int] = {}

    def run(self, action: Callable[[], object]) -> BaseException | None:
        before, collects = sys.gettrace(), gc.isenabled()
        gc.disable()  # the finalizers of other tests are none of the action's steps
        sys._getframe().f_trace_opcodes = True  # Python 3.12 looks once, when tracing begins
        sys.settrace(self._step)
        try:
            action()
        except BaseException as error:
            return error
        finally:
            sys.settrace(before)
            self._last.clear()
            if collects:
                gc.enable()
        return None

    def _step(self, frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith(self._folders):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            if self._counts(frame, self._last.get(frame)):
                self.left -= 1
                if self.left == -1:
                    sys.settrace(None)
                    self._instead()
            self._last[frame] = frame.f_code.co_code[frame.f_lasti]
        return self._step
