"""Threads that each keep one event loop alive, for coroutine jobs and async views.

The only package that creates event loops and, with async_views, that knows asgiref's insides. Its
modules, each of which imports only from those before it:

- factory: make event loops
- tasks: start our own tasks, and cancel those that users' code has started
- asgiref_bridge: lead asgiref's ``async_to_sync`` from a worker thread to a loop that lasts
- current: the loop, loop thread and resident running this code, or waiting for it
- thread_sensitive: a thread for what a task runs in ``sync_to_async``
- watchdog: warn about jobs that block an event loop
- thread: one event loop and the thread that runs it
- pool: the loop threads of coroutine jobs
- resources: one client or connection pool for each loop
- greenlets: a stand-in for loops under gevent and eventlet
"""

from .asgiref_bridge import stock_async_to_sync
from .current import has_loop_of_asgirefs, loop_thread_here, resident_here, serves_this_thread
from .pool import LoopPool
from .resources import LoopResource

__all__ = (
    "LoopPool",
    "LoopResource",
    "has_loop_of_asgirefs",
    "loop_thread_here",
    "resident_here",
    "serves_this_thread",
    "stock_async_to_sync",
)
