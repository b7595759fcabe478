"""A stand-in for gevent and eventlet in a process that they have patched."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest


def patch(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    """Look like a process that ``library`` has patched."""

    def is_patched(module: str) -> bool:
        return module in {"thread", "threading"}

    gevent = SimpleNamespace(is_module_patched=is_patched)
    eventlet = SimpleNamespace(is_monkey_patched=is_patched)
    modules: dict[str, Any] = {"gevent.monkey": gevent, "eventlet.patcher": eventlet}
    for name, module in modules.items():
        if name.startswith(library):
            monkeypatch.setitem(sys.modules, name, module)
