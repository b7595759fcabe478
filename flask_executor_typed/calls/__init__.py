"""Calls, which an executor accepts and a backend runs.

Each module imports only from those before it:

- reports: the log record of a failed call, and the notes on its exception
- limits: the limits of a call, and what it asks of an engine
- call: one accepted call, and the ways to run it
- carrying: calls that run with values captured by carriers
- logs: catch what jobs log, where log records are made
- capacity: count an executor's calls and limit how many may be pending
- held: calls that wait for an event before they are handed to the workers
"""

from .call import (
    Call,
    Interrupter,
    LoopServices,
    can_be_awaited,
    is_of_another_call,
    pending_call_of,
)
from .capacity import (
    Capacity,
    ExecutorStats,
    are_idle,
    stats_of,
    wait_until_idle,
    watching_for_idle,
    what_runs,
)
from .carrying import Carried, Carriers, CarryingCall
from .held import HeldCall, Hold, Until
from .limits import Backoff, Deadline, Limits, Route
from .logs import catch_logs
from .reports import warn_of_generator, when_context_is_missed

__all__ = (
    "Backoff",
    "Call",
    "Capacity",
    "Carried",
    "Carriers",
    "CarryingCall",
    "Deadline",
    "ExecutorStats",
    "HeldCall",
    "Hold",
    "Interrupter",
    "Limits",
    "LoopServices",
    "Route",
    "Until",
    "are_idle",
    "can_be_awaited",
    "catch_logs",
    "is_of_another_call",
    "pending_call_of",
    "stats_of",
    "wait_until_idle",
    "warn_of_generator",
    "watching_for_idle",
    "what_runs",
    "when_context_is_missed",
)
