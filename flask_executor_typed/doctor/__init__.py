"""Find what will go wrong in a deployment, and show how executors and jobs are doing.

Each module imports only from those before it:

- server: the server's command line, configuration and processes, as far as they can be seen
- checks: what will go wrong in this deployment, and what to do about it
- jobs: ``flask executor list``, ``show``, ``cancel`` and ``purge``
- commands: ``flask executor doctor`` and ``flask executor status``, and a list of all commands
"""

from .checks import ExecutorStatus, Finding, check, examine, status

__all__ = ("ExecutorStatus", "Finding", "check", "examine", "status")
