"""Detect gevent and eventlet, which replace threads with greenlets, and refuse what cannot work.

The only module that looks for either. It imports neither, but sees whether the app has.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError, GreenThreadsError

__all__ = ("check_patched_before_import", "check_setting", "patched_by")


def patched_by() -> str | None:
    """Return ``"gevent"`` or ``"eventlet"`` if it has patched the threads of this process."""
    # A library that was never imported has patched nothing.
    gevent: Any = sys.modules.get("gevent.monkey")
    if gevent is not None and gevent.is_module_patched("threading"):
        return "gevent"
    eventlet: Any = sys.modules.get("eventlet.patcher")
    if eventlet is not None and eventlet.is_monkey_patched("thread"):
        return "eventlet"
    return None


_patched_at_import = patched_by()

_PATCH_FIRST: Mapping[str, str] = {
    "gevent": "from gevent import monkey; monkey.patch_all()",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
}


def check_patched_before_import() -> None:
    """Refuse to run if the process was patched only after this package was imported.

    Queues and thread-local values created before patching block all greenlets, or are shared by
    them.

    Raises:
        GreenThreadsError: the process was patched after this package was imported.
    """
    library = patched_by()
    if library is not None and library != _patched_at_import:
        raise GreenThreadsError(
            library,
            "patched the process when flask_executor_typed had already been imported",
            f"begin the program, or with --preload gunicorn.conf.py, with "
            f"'{_PATCH_FIRST[library]}'",
        )


def check_setting(key: str, value: object, expected: str) -> None:
    """Refuse a setting that needs real threads.

    Raises:
        ConfigError: the threads of this process are greenlets.
    """
    library = patched_by()
    if library is not None:
        raise ConfigError(key, value, f"{expected}, since {library} has patched this process")
