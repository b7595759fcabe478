"""Register what runs at a fork: in its child, or around it.

The only module that does. The functions are beside the state that they reset: look for
``in_child``, most of them named ``_forget_parent``, and for ``around_fork``.
"""

from __future__ import annotations

import os
from collections.abc import Callable

__all__ = ("around_fork", "in_child")


def in_child(forget: Callable[[], object]) -> Callable[[], object]:
    """Have a function called in the child of each fork, where the system has forks."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=forget)
    return forget


def around_fork(
    before: Callable[[], object], in_parent: Callable[[], object], in_child: Callable[[], object]
) -> None:
    """Have functions called before each fork and after it, where the system has forks."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=before, after_in_parent=in_parent, after_in_child=in_child)
