"""Celery as an engine: how messages are sent, the task that runs them, and workers that die.

The only module that imports Celery.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from operator import attrgetter
from typing import Any

from ..backends import Capabilities
from ..calls import Route
from ..errors import ConfigError, JobFailedError
from ..stores.protocol import Hazard
from .protocol import Message
from .worker import lose, run_message

__all__ = ("CeleryEngine",)

_TASK = "flask_executor_typed.run"


class CeleryEngine:
    """Sends messages through the app's own Celery, to its own workers.

    Args:
        key: The setting that names the Celery app, for messages.
        key_of_type: That which names this engine.
        given: Its value: a Celery app, ``"package.module:name"``, or ``None``.
        default: Returns the Celery app if none is given.

    Raises:
        ConfigError: Celery is not installed.
    """

    name: str = "EXECUTOR_TYPE='celery'"

    capabilities: Capabilities = Capabilities(
        contexts=True,
        coroutines=True,
        progress=True,
        cancel_running=True,
        kill=True,
        time_limits=True,
        retries=True,
        routing=True,
        delay=True,
    )

    def __init__(self, key: str, key_of_type: str, given: Any, default: Callable[[], Any]) -> None:
        self._key = key
        self._given = given
        self._default = default
        _register_task(key_of_type)

    def publish(self, message: Message, route: Route) -> None:
        options = {
            "queue": route.queue,
            "priority": route.priority,
            "countdown": route.delay or None,
        }
        self._celery_app().send_task(
            _TASK,
            args=tuple(message),
            task_id=message.id,
            shadow=message.name,  # what Flower and logs show
            argsrepr=f"<{message.name}>",  # not the arguments
            kwargsrepr="{}",
            ignore_result=True,
            # What is not given is left to the app's own task_routes and the like.
            **{name: value for name, value in options.items() if value is not None},
        )

    def hazards(self) -> Iterator[Hazard]:
        """Yield the dangers to jobs in the configuration of the Celery app. Connects to nothing.

        Raises:
            ConfigError: there is no Celery app.
        """
        conf = self._celery_app().conf
        if not str(conf.broker_url or "").startswith(("redis", "sentinel")):
            return
        if not getattr(conf, "worker_disable_prefetch", False):
            yield Hazard(
                "celery-prefetches",
                "A Celery worker fetches jobs before it can begin them. If it is killed, they wait "
                "until the broker's visibility timeout is over, which is an hour by default.",
                "Set worker_disable_prefetch = True in Celery's configuration, which needs Celery "
                "5.6; or start workers with --disable-prefetch, which this process does not see.",
                must_mend=False,
            )
        options: dict[str, Any] = conf.broker_transport_options or {}
        if not options.get("socket_timeout"):
            yield Hazard(
                "broker-without-timeout",
                "submit() waits for ever for a broker that accepts connections and does not "
                "answer.",
                "Set broker_transport_options = {'socket_timeout': 3} in Celery's configuration.",
                must_mend=False,
            )

    def _celery_app(self) -> Any:
        """Find the Celery app, which may have been made after ``init_app``."""
        found: Any = self._default() if self._given is None else self._given
        reason = ""
        if isinstance(found, str):
            module, _, name = found.partition(":")
            try:
                found = attrgetter(name)(import_module(module))
            except Exception as error:  # a module may raise anything
                reason = f" ({type(error).__name__}: {error})"
        if not callable(getattr(found, "send_task", None)):
            raise ConfigError(
                self._key,
                self._given,
                "a Celery app, or 'package.module:name' of one; or None, and the Celery app in "
                f"app.extensions['celery'], where Flask's own recipe puts it{reason}",
            )
        return found


_is_registered = False  # set once


def _register_task(key: str) -> None:
    """Add the task that runs jobs to every Celery app of this process, now and later."""
    global _is_registered  # noqa: PLW0603
    if _is_registered:
        return
    try:
        celery, signals = import_module("celery"), import_module("celery.signals")
    except ImportError:
        expected = "Celery to be installed: pip install 'flask-executor-typed[celery]'"
        raise ConfigError(key, "celery", expected) from None
    _is_registered = True
    # Acknowledged early, whatever the settings of the app say: a job begins at most once for each
    # attempt, so a message that comes again would do nothing.
    celery.shared_task(
        name=_TASK,
        acks_late=False,
        reject_on_worker_lost=False,
        ignore_result=True,
        track_started=False,
        throws=(JobFailedError,),  # it is logged: see run_message()
    )(_run)
    signals.task_failure.connect(_note_death, weak=False)


def _run(app: str, executor: str, name: str, job_id: str, attempt: int, token: str) -> None:
    # A child of the prefork pool runs one task at a time. The other pools have it in a thread.
    process: Any = import_module("billiard.process")
    is_alone = process.current_process().name != "MainProcess"
    run_message(app, executor, name, job_id, attempt, token, is_alone=is_alone)


_DEATHS = {"WorkerLostError": True, "TimeLimitExceeded": False}
"""Errors of a task whose process dies, and whether it has ended when they are raised."""


def _note_death(sender: Any = None, exception: object = None, args: Any = (), **_: object) -> None:
    """Lose a job whose process has died, in the process that has started it."""
    has_ended = _DEATHS.get(type(exception).__name__)
    if getattr(sender, "name", "") == _TASK and has_ended is not None:
        app, executor, _name, job_id, attempt, _token = args
        reason = f"its worker has died: {exception}"
        lose(app, executor, job_id, attempt, reason, has_ended=has_ended)
