"""Find what will go wrong in a deployment, and show how executors are doing.

Each module imports only from those before it:

- server: the server's command line, configuration and processes, as far as they can be seen
- checks: what will go wrong in this deployment, and what to do about it
- commands: ``flask executor doctor`` and ``flask executor status``
"""

from .checks import ExecutorStatus, Finding, check, examine, status

__all__ = ("ExecutorStatus", "Finding", "check", "examine", "status")
