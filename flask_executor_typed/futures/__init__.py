"""Futures, the handles of calls that ``submit`` returns, and the collection that keeps them by key.

The only package that knows the internals of ``concurrent.futures.Future``. Its modules, each of
which imports only from those before it:

- progress: the progress that a job reports
- log_tail: the last lines that a job logs
- waiters: the waiting threads and tasks, as watchers of a future
- callbacks: a done callback with the contexts it runs in
- base: the future's state machine: starting, settling and notifying
- chaining: copy one future's outcome to another
- watching: watch a job's progress
- stdlib: a future as ``concurrent.futures.wait()`` sees it
- proxy: the handle itself, with all that users may do
- observed: futures that note whether a caller has asked for the outcome, for tests
- as_completed: yield futures in the order in which they finish
- keys: keys that know the type of the result
- collection: a bounded collection of futures by key
"""

from collections import OrderedDict
from concurrent.futures import Future

from ..helpers import InstanceProxy
from .as_completed import AsCompleted, SubmittedFuture
from .base import (
    Recorder,
    add_default_callback,
    add_log,
    begin,
    end_by_cancel,
    end_cancelled,
    end_hold,
    facts_of,
    fail,
    hold,
    interrupt,
    is_claimed,
    is_waited_for,
    keep_log,
    last_followed,
    log_of,
    note_change,
    note_submitter,
    pause,
    pending_call,
    record_late,
    record_with,
    recorder_of,
    refuse,
    resume,
    set_start,
    submitter_of,
    succeed,
)
from .callbacks import announce, app_of, call_back_by, check_callback
from .chaining import delegate, follow, following_apart
from .collection import (
    FutureCollection,
    OnDuplicate,
    SharedKeys,
    claim_key,
    release_key,
    share_keys,
)
from .keys import FutureKey, plain_key
from .observed import failure_of, note_asked, observe, result_of, was_asked
from .progress import Progress, plain_progress
from .proxy import (
    FutureProxy,
    Status,
    block_until_done,
    future_with_id,
    id_of,
    named_future,
    named_futures,
    wait_here_with,
    waiting_here_by,
)
from .watching import telling

# Future, InstanceProxy and OrderedDict are here because Flask-Executor's module of this name has
# them, and existing code imports Future from there.
__all__ = (
    "AsCompleted",
    "Future",
    "FutureCollection",
    "FutureKey",
    "FutureProxy",
    "InstanceProxy",
    "OnDuplicate",
    "OrderedDict",
    "Progress",
    "Recorder",
    "SharedKeys",
    "Status",
    "SubmittedFuture",
    "add_default_callback",
    "add_log",
    "announce",
    "app_of",
    "begin",
    "block_until_done",
    "call_back_by",
    "check_callback",
    "claim_key",
    "delegate",
    "end_by_cancel",
    "end_cancelled",
    "end_hold",
    "facts_of",
    "fail",
    "failure_of",
    "follow",
    "following_apart",
    "future_with_id",
    "hold",
    "id_of",
    "interrupt",
    "is_claimed",
    "is_waited_for",
    "keep_log",
    "last_followed",
    "log_of",
    "named_future",
    "named_futures",
    "note_asked",
    "note_change",
    "note_submitter",
    "observe",
    "pause",
    "pending_call",
    "plain_key",
    "plain_progress",
    "record_late",
    "record_with",
    "recorder_of",
    "refuse",
    "release_key",
    "result_of",
    "resume",
    "set_start",
    "share_keys",
    "submitter_of",
    "succeed",
    "telling",
    "wait_here_with",
    "waiting_here_by",
    "was_asked",
)
