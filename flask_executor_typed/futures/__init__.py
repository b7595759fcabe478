"""The handle of one call, and collections of them: what ``submit`` returns, and keeps by key.

The only package that knows ``concurrent.futures.Future`` inside out. Its modules, of which each
imports only from those before it:

- locking: the lock of all futures
- progress: how far a job is
- waiters: who waits for a future, as its list of watchers knows them
- callbacks: a done callback with the contexts it runs in
- claims: who may start, resume and settle a call, and who is told
- following: futures that are settled like others
- watching: who hears of a job's progress
- standard: a future as ``concurrent.futures.wait()`` sees it
- proxy: the handle itself, with all that a user may do
- keys: a key that knows the type of its result
- collection: futures by key, a bounded number
"""

from ..runtime.loop_inbox import LoopInbox, inbox_of_running_loop
from .collection import FutureCollection, OnDuplicate
from .following import following_apart
from .keys import FutureKey
from .progress import Progress
from .proxy import FutureProxy, Status, wait_here_with
from .watching import telling

__all__ = (
    "FutureCollection",
    "FutureKey",
    "FutureProxy",
    "LoopInbox",
    "OnDuplicate",
    "Progress",
    "Status",
    "following_apart",
    "inbox_of_running_loop",
    "telling",
    "wait_here_with",
)
