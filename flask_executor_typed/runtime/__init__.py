"""Threads, exit, forks, stack frames and logging: everything between this package and the process.

The only package that starts threads and registers exit and fork hooks. Each module imports only
from those before it:

- forks: register what runs at a fork
- threads: daemon threads that the interpreter waits for
- timers: functions that are called after some seconds
- frames: the user's line that led here, or that failed
- logs: logging that cannot fail
- exit: closing, draining and leaving behind whatever runs calls
- running_loop: the event loop that runs in this thread
- loop_inbox: callbacks for an event loop, from any thread
- greenlets: detect gevent and eventlet
- weak: weak references that are listed while other threads add to them
"""
