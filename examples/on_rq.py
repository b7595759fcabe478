"""A shop whose jobs run in RQ: an engine of its own, and the app that uses it.

``rq worker --path . --serializer json shop`` in the folder above runs the jobs.
"""

from __future__ import annotations

import os
from typing import Any

from flask import Flask
from redis import Redis
from rq import Queue

from flask_executor_typed import Executor, current_job
from flask_executor_typed.backends import Capabilities
from flask_executor_typed.engines import Message, Route, run_message

REDIS = os.environ.get("SHOP_REDIS", "redis://localhost:6379/0")


class RqEngine:
    """Puts messages into a queue of RQ."""

    name = "RQ"
    capabilities = Capabilities(
        contexts=True,
        coroutines=True,
        progress=True,
        cancel_running=True,
        kill=True,
        time_limits=True,
        retries=True,
    )

    def __init__(self) -> None:
        redis = Redis.from_url(REDIS, socket_timeout=3)  # pyright: ignore[reportUnknownMemberType]
        self._queue: Any = Queue("shop", redis, serializer="json")  # RQ's default is pickle

    def publish(self, message: Message, route: Route) -> None:
        self._queue.enqueue_call(
            f"{__name__}.run",
            args=tuple(message),
            description=message.name,  # what RQ logs, instead of the arguments
            timeout=-1,  # using(timeout=...) says it
            result_ttl=0,  # the job's record has the result
        )


def run(*message: Any) -> None:
    """Run a job in a worker of RQ, which has imported this module and so created the app."""
    run_message(*message, is_alone=True)  # RQ has forked this process for the one job


def create_app() -> Flask:
    app = Flask("shop")
    app.config.from_mapping(
        SECRET_KEY=os.environ.get("SHOP_SECRET_KEY", "dev"),
        EXECUTOR_TYPE=RqEngine,  # or its name, "engines:RqEngine", from a module of its own
        EXECUTOR_STORE=REDIS,
    )
    executor.init_app(app)
    return app


executor = Executor[object]()


@executor.job
def print_label(order: int) -> str:
    current_job.progress(1, 2, "the address")
    return f"label of order {order}"


app = create_app()
