"""Functions in threads of their own, all at once."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ..conftest import TIMEOUT


def at_once(*fns: Callable[[], object]) -> None:
    """Call each function in a thread of its own, and raise what one of them raised."""
    start, errors = threading.Barrier(len(fns)), list[BaseException]()

    def run(fn: Callable[[], object]) -> None:
        try:
            start.wait(TIMEOUT)
            fn()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(fn,), daemon=True) for fn in fns]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive(), "a thread hangs"
    for error in errors:
        raise error
