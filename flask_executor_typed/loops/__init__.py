"""Threads that each keep one event loop alive, for coroutine jobs and async views.

The only package that creates event loops or imports asgiref. Its modules, of which each imports
only from those before it:

- callables: what gives a coroutine when it is called
- making: makes event loops
- tasks: starts our own tasks, and ends those of others
- residents: what lives on a loop until the loop ends
- bridging: leads asgiref's ``async_to_sync`` from a worker thread to a loop that lasts
- here: which loop of this package runs this code, or waits for it
- variables: the context variables that tell whose code runs, and which thread waits for it
- sensitive: a thread for what a task runs in ``sync_to_async``
- thread: one event loop and the thread that runs it
- pool: the loop threads of coroutine jobs
- waiting: a server's thread, while it waits for its async view
- view_loop: the loop thread of the async views of one server's thread
"""

from .bridging import stock_async_to_sync
from .callables import is_async_callable
from .here import has_loop_of_asgirefs, loop_thread_here, serves_this_thread
from .pool import LoopPool
from .residents import resident_here
from .view_loop import ViewLoop

__all__ = (
    "LoopPool",
    "ViewLoop",
    "has_loop_of_asgirefs",
    "is_async_callable",
    "loop_thread_here",
    "resident_here",
    "serves_this_thread",
    "stock_async_to_sync",
)
