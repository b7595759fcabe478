"""The executor's blinker signals. The sender is the app; ``future`` is the call's handle.

The only module that creates signals. A signal without receivers costs nothing. Receivers run where
the event happens, with an app context pushed: ``job_submitted`` in the submitter's thread,
``job_cancelled`` in the thread that cancels, ``job_lost`` for another process's job in a thread of
the store, the others in the worker. A receiver's exception is logged and changes nothing else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .runtime.logs import log_exception

if TYPE_CHECKING:
    from blinker import NamedSignal
    from flask import Flask

__all__ = (
    "announce",
    "job_cancelled",
    "job_failed",
    "job_lost",
    "job_started",
    "job_submitted",
    "job_succeeded",
    "receivers_of",
)

# Flask's own namespace class: blinker's, or on Flask before 2.3 without blinker, a stand-in whose
# signals cannot be connected and so never have receivers.
_namespace = import_module("flask.signals").Namespace()


def _signal(name: str, doc: str) -> NamedSignal:
    signal: NamedSignal = _namespace.signal(name, doc)
    if not hasattr(signal, "receivers"):
        signal.receivers = {}
    return signal


def receivers_of(signal: object) -> dict[Any, Any]:
    """Return the receivers of a signal, a mapping that changes in place.

    Empty for Flask's stand-in for blinker.
    """
    receivers: dict[Any, Any] = getattr(signal, "receivers", {})
    return receivers


job_submitted: NamedSignal = _signal("job-submitted", "A call was accepted.")
job_started: NamedSignal = _signal("job-started", "A worker is about to run the call.")
job_succeeded: NamedSignal = _signal(
    "job-succeeded", "The call returned; its future has the result."
)
job_failed: NamedSignal = _signal("job-failed", "The call raised; its future has the exception.")
job_cancelled: NamedSignal = _signal(
    "job-cancelled", "The call was cancelled, before or while it ran."
)


job_lost: NamedSignal = _signal(
    "job-lost",
    "How far the call got is unknown, since its process has ended. Receivers also get ``record``, "
    "its JobRecord, or None in an app without a store.",
)


def announce(signal: NamedSignal, app: Flask, future: object, **facts: object) -> None:
    """Send ``signal``, and log what receivers raise: there is no caller to catch it."""
    receivers = signal.receivers_for(app)  # send() would stop at the first receiver that raises
    for receiver in receivers:
        try:
            receiver(app, future=future, **facts)
        except BaseException:
            log_exception(app.logger, "a receiver of %s raised for %r", signal.name, future)
