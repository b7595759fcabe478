"""Carriers, and an app that worker processes load with them; see test_carriers.py."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from flask import Flask, current_app, g, has_app_context

from flask_executor_typed import Executor

value: ContextVar[str] = ContextVar("value", default="none")
"""What :class:`Value` takes along, although it could travel by itself in a thread."""

happened: list[str] = []
"""What carriers and jobs of this process did."""


class Value:
    """Takes a value along, and notes what happens to it."""

    def __init__(self, name: str = "value") -> None:
        self.name = name

    def capture(self) -> str:
        happened.append(f"capture {self.name} {value.get()}")
        return value.get()

    @contextmanager
    def attach(self, captured: str, /) -> Generator[None, None, None]:
        happened.append(f"attach {self.name} {captured}")
        token = value.set(f"attached {captured}")
        try:
            yield
        except BaseException as error:
            happened.append(f"{self.name} saw {error!r}")
            raise
        finally:
            value.reset(token)
            happened.append(f"detach {self.name} {captured}")


carrier, other = Value(), Value("other")


class Broken:
    """Fails at one of its steps."""

    name = "broken"

    def __init__(self, step: str) -> None:
        self.step = step

    def _do(self, step: str) -> None:
        if step == self.step:
            raise ValueError(f"broken {step}")

    def capture(self) -> object:
        self._do("capture")
        return (lambda: None) if self.step == "pickle" else Unloadable(self.step == "load")

    def attach(self, captured: object, /) -> Broken:
        self._do("attach")
        return self

    def __enter__(self) -> None:
        self._do("enter")

    def __exit__(self, *exc_info: object) -> bool:
        self._do("exit")
        return True  # it would suppress what the job raises


class Unloadable:
    def __init__(self, breaks: bool) -> None:
        self.breaks = breaks

    def __setstate__(self, state: dict[str, bool]) -> None:
        if state["breaks"]:
            raise ValueError("broken load")


def see(*items: object) -> str:
    """A job: the value that it sees."""
    happened.append(f"job in {current_app.name if has_app_context() else 'no app'}")
    return value.get()


async def see_soon(*items: object) -> str:
    await asyncio.sleep(0)
    return see(*items)


def see_later(*items: object) -> Awaitable[str]:
    """A plain function whose result is awaited, with what is attached in its worker."""
    return see_soon(*items)


def fail(*items: object) -> None:
    see()
    raise ZeroDivisionError("no")


async def fail_soon(*items: object) -> None:
    fail()


JOBS: list[Callable[..., Any]] = [see, see_soon, see_later]
FAILING: list[Callable[..., Any]] = [fail, fail_soon]

executor = Executor()


def create_app(**settings: object) -> Flask:
    app = Flask("carrying")
    app.config["EXECUTOR_CARRIERS"] = f"{__name__}:carrier"
    app.config["EXECUTOR_APP"] = f"{__name__}:create_app"
    app.config["EXECUTOR_MAX_WORKERS"] = 2
    app.config.from_mapping(settings)
    executor.init_app(app)

    @app.teardown_appcontext
    def note(error: BaseException | None) -> None:
        happened.append(f"teardown {value.get()} {g.get('name', '')}".strip())

    return app
