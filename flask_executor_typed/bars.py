"""Progress bars on a terminal, drawn by tqdm: the extra ``bars``.

The only module that imports tqdm, and one that nothing else imports.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from typing import Any, TypeVar, cast, overload

from tqdm import tqdm

from .futures import FutureProxy, telling

__all__ = ("bar",)

A = TypeVar("A")
R = TypeVar("R")


@overload
def bar(source: FutureProxy[R], *, total: float | None = None, title: str = "") -> R: ...
@overload
def bar(source: Iterable[A], *, total: float | None = None, title: str = "") -> Iterator[A]: ...
def bar(source: Any, *, total: float | None = None, title: str = "") -> Any:
    """Show how far a job is, or how many results of a ``map`` there are, on the terminal.

    Blocks until the job is done, so it is for scripts and commands, not for views.

    Args:
        source: A future, or an iterable such as ``executor.map`` returns.
        total: How many there will be; by default what the job says, or the length.
        title: What the bar shows in front; by default the name of the future.

    Returns:
        The result of the future, or an iterator of what ``source`` gives.

    Raises:
        BaseException: what the job raised.
    """
    if isinstance(source, FutureProxy):
        return _show(cast("FutureProxy[object]", source), total, title)
    return iter(tqdm(source, total=total, desc=title or None))


def _show(future: FutureProxy[R], total: float | None, title: str) -> R:
    changes: SimpleQueue[None] = SimpleQueue()

    def note(_: object = None) -> None:
        changes.put(None)

    shown: tqdm[Any]
    with tqdm(total=total, desc=title or future.name) as shown, telling(future, note):
        future.add_done_callback(note)
        done = future.done()
        while True:
            progress = future.progress
            if progress is not None:
                shown.total = progress.total if total is None else total
                shown.set_postfix_str(progress.message, refresh=False)
                shown.update(progress.done - shown.n)
            if done:
                break
            changes.get()
            done = future.done()  # before the progress is read, which is the last then
        shown.refresh()
    return future.result()
