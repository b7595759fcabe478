"""Async views on event loops that last between requests, with ``EXECUTOR_ASYNC_VIEWS``.

An app without that setting runs nothing of this package. Its modules, of which each imports only
from those before it:

- waiting_thread: a server's thread, while it waits for its async view
- loop: the loop thread of the async views of one server thread
- hook: ``Flask.async_to_sync``, and what puts ours in its place
"""
