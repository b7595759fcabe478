"""A bounded collection of futures by key."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn, Protocol, TypeVar, overload
from weakref import WeakMethod, WeakSet

from typing_extensions import TypeVar as TypeVarWithDefault

from ..errors import DuplicateKeyError, StoreError
from ..runtime.forks import in_child
from .base import may_never_run, note_change, recorder_of
from .chaining import follow
from .keys import FutureKey, plain_key
from .progress import Progress
from .proxy import FutureProxy, Status

__all__ = (
    "FutureCollection",
    "OnDuplicate",
    "ReadableFuture",
    "SharedKeys",
    "claim_key",
    "release_key",
    "share_keys",
)

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVarWithDefault("T", default=Any)

# A union, since stubtest wants one at runtime where a type checker sees one.
OnDuplicate = Literal["error"] | Literal["join"] | Literal["replace"]  # noqa: PYI030


class ReadableFuture(Protocol[R_co]):
    """A future that is only read, so that an ``Executor[float]`` may keep a future of ``int``."""

    def cancel(self) -> bool: ...
    def cancelled(self) -> bool: ...
    def running(self) -> bool: ...
    def done(self) -> bool: ...
    def result(self, timeout: float | None = None) -> R_co: ...
    def exception(self, timeout: float | None = None) -> BaseException | None: ...


class SharedKeys(Protocol):
    """The keys that all server processes share, for one executor in one app."""

    def claim(
        self, future: FutureProxy[Any], key: Hashable, on_duplicate: OnDuplicate
    ) -> tuple[bool, FutureProxy[Any] | None]:
        """Claim a key for a future in all processes.

        Returns:
            Whether the key can be shared, and the future to join, if there is one.

        Raises:
            DuplicateKeyError: another job has the key.
            StoreError: keys must be shared, but the store cannot be used now.
        """
        ...

    def add(self, future: Future[Any], key: Hashable) -> bool:
        """Give a key to a future that was submitted before. Returns whether all processes know it.

        Raises:
            DuplicateKeyError: another job has the key.
            StoreError: keys must be shared, and cannot be now.
        """
        ...

    def find(self, key: Hashable) -> FutureProxy[Any] | None:
        """Return the future that has a key. Raises ``StoreError``."""
        ...

    def pop(self, key: Hashable) -> FutureProxy[Any] | None:
        """Free a key and return its future. Raises ``StoreError``."""
        ...

    def count_keys(self) -> int: ...


class FutureCollection(Generic[T]):
    """A bounded number of futures by key. Every method may be called from any thread.

    Methods named like those of a future take the key first and ask the future kept under it. For an
    unknown key, they return ``None``. ``T`` is the type of the results; a :class:`FutureKey` brings
    its own.
    """

    def __init__(self, max_length: int | None = 50) -> None:
        self.max_length = max_length
        """How many futures are kept at most; ``None`` keeps them all."""
        self._futures: OrderedDict[Hashable, Future[Any]] = OrderedDict()  # guarded by _lock
        self._lock = threading.RLock()  # reentrant: a key's __eq__ or a finalizer may call us
        self._shared: Callable[[], SharedKeys | None] = _nothing_shared
        _collections.add(self)

    def __len__(self) -> int:
        shared = self._shared()
        return len(self._futures) + (0 if shared is None else shared.count_keys())

    def __repr__(self) -> str:
        """Describe the futures that this process keeps. Asks no store."""
        with self._lock:
            kept = list(self._futures.values())
        running = sum(future.running() for future in kept)
        return f"<{type(self).__name__} of {len(kept)}, {running} running>"

    if not TYPE_CHECKING:
        __iter__ = None  # or Python would iterate by __getitem__

        def __getitem__(self, future_key: object) -> NoReturn:
            raise TypeError(
                f"a {type(self).__name__} has no items; use get({future_key!r}), or "
                f"result({future_key!r}), which is None for an unknown key"
            )

    def __contains__(self, item: object) -> bool:
        """Return whether this *future* is kept under any key, or whether this key is in use."""
        if not isinstance(item, Future):
            return self._get(item) is not None
        with self._lock:
            if any(kept is item for kept in self._futures.values()):
                return True
        key = item.key if isinstance(item, FutureProxy) else None
        return key is not None and self._get(key) is item

    @overload
    def add(self, future_key: FutureKey[R], future: ReadableFuture[R]) -> None: ...
    @overload
    def add(self, future_key: Hashable, future: ReadableFuture[T]) -> None: ...
    def add(self, future_key: Any, future: Any) -> None:
        """Keep a future. If there is no room, drop the oldest finished one, or else the oldest.

        A dropped future is only forgotten here; its call keeps running.

        Raises:
            DuplicateKeyError: the key is in use; a ``ValueError``.
        """
        key, shared = plain_key(future_key), self._shared()
        if shared is None or not shared.add(future, key):
            claim_key(self, key, future, "error")

    @overload
    def pop(self, future_key: FutureKey[R]) -> FutureProxy[R] | None: ...
    @overload
    def pop(self, future_key: Hashable) -> FutureProxy[T] | None: ...
    def pop(self, future_key: Any) -> FutureProxy[Any] | None:
        """Forget a key and return its future, or ``None``."""
        key, found = plain_key(future_key), None
        if (shared := self._shared()) is not None:
            try:
                found = shared.pop(key)
            except StoreError:
                if key not in self._futures:
                    raise
        with self._lock:
            kept = self._futures.pop(key, None)
        return _as_proxy(kept) if found is None else found

    @overload
    def get(self, future_key: FutureKey[R]) -> FutureProxy[R] | None: ...
    @overload
    def get(self, future_key: Hashable) -> FutureProxy[T] | None: ...
    def get(self, future_key: Any) -> FutureProxy[Any] | None:
        """Return the future kept under a key, or ``None``."""
        return _as_proxy(self._get(future_key))

    def _get(self, future_key: object) -> Future[Any] | None:
        key = plain_key(future_key)
        if (shared := self._shared()) is not None:
            # Asked first: another process may have taken over a key that is also kept here.
            try:
                if (found := shared.find(key)) is not None:
                    return found
            except StoreError:
                if key not in self._futures:
                    raise  # the key may be in use elsewhere
        with self._lock:
            return self._futures.get(key)

    @overload
    def result(self, future_key: FutureKey[R], timeout: float | None = None) -> R | None: ...
    @overload
    def result(self, future_key: Hashable, timeout: float | None = None) -> T | None: ...
    def result(self, future_key: Any, timeout: float | None = None) -> Any:
        """Like :meth:`FutureProxy.result`."""
        future = self._get(future_key)
        return None if future is None else future.result(timeout)

    def exception(
        self, future_key: FutureKey[Any] | Hashable, timeout: float | None = None
    ) -> BaseException | None:
        """Like :meth:`FutureProxy.exception`."""
        future = self._get(future_key)
        return None if future is None else future.exception(timeout)

    def done(self, future_key: FutureKey[Any] | Hashable) -> bool | None:
        """Like :meth:`FutureProxy.done`."""
        future = self._get(future_key)
        return None if future is None else future.done()

    def running(self, future_key: FutureKey[Any] | Hashable) -> bool | None:
        """Like :meth:`FutureProxy.running`."""
        future = self._get(future_key)
        return None if future is None else future.running()

    def cancelled(self, future_key: FutureKey[Any] | Hashable) -> bool | None:
        """Like :meth:`FutureProxy.cancelled`."""
        future = self._get(future_key)
        return None if future is None else future.cancelled()

    def cancel(self, future_key: FutureKey[Any] | Hashable) -> bool | None:
        """Like :meth:`FutureProxy.cancel`."""
        future = self._get(future_key)
        return None if future is None else future.cancel()

    def status(self, future_key: FutureKey[Any] | Hashable) -> Status | None:
        """Like :attr:`FutureProxy.status`."""
        future = self.get(future_key)
        return None if future is None else future.status

    def progress(self, future_key: FutureKey[Any] | Hashable) -> Progress | None:
        """Like :attr:`FutureProxy.progress`."""
        future = self.get(future_key)
        return None if future is None else future.progress

    @overload
    def add_done_callback(
        self, future_key: FutureKey[R], fn: Callable[[FutureProxy[R]], object]
    ) -> None: ...
    @overload
    def add_done_callback(
        self, future_key: Hashable, fn: Callable[[FutureProxy[T]], object]
    ) -> None: ...
    def add_done_callback(self, future_key: Any, fn: Callable[[Any], object]) -> None:
        """Like :meth:`FutureProxy.add_done_callback`. Does nothing for an unknown key."""
        future = self.get(future_key)
        if future is not None:
            future.add_done_callback(fn)

    def _state(self, future_key: object) -> str | None:
        """Return the state's name in ``concurrent.futures``: ``"RUNNING"``, ``"FINISHED"``, ..."""
        future = self._get(future_key)
        return None if future is None else future._state


def share_keys(futures: FutureCollection[Any], shared: Callable[[], SharedKeys | None]) -> None:
    """Look up keys in ``shared()`` first, the keys of all processes; ``None`` if there are none.

    ``shared`` is a method of the executor, which keeps ``futures``. A reference back would make a
    cycle, and an executor that is dropped would keep its threads until the collector came.
    """
    method = WeakMethod(shared)

    def shared_now() -> SharedKeys | None:
        bound = method()
        return None if bound is None else bound()

    futures._shared = shared_now


def _nothing_shared() -> None:
    return None


def claim_key(
    futures: FutureCollection[Any],
    key: object,
    future: Future[Any],
    on_duplicate: OnDuplicate,
    shared: SharedKeys | None = None,
) -> FutureProxy[Any] | None:
    """Keep ``future``, or return the one to join. Atomic: of two claims, one sees the other.

    If it raises anything, :func:`release_key` undoes the claim.

    Args:
        futures: The collection that keeps it.
        key: The key to keep it under.
        future: The future to keep.
        on_duplicate: As in :meth:`Executor.using`.
        shared: The keys of all processes, if the future's call is recorded.
    """
    key = plain_key(key)
    if shared is not None and isinstance(future, FutureProxy):
        future.key = key  # before it is kept, or release_key() would not find it
        is_shared, joined = shared.claim(future, key, on_duplicate)
        if is_shared:
            return joined
    with futures._lock:
        kept = futures._futures.get(key)
        if kept is not None:
            if on_duplicate == "error":
                raise DuplicateKeyError(key)
            if on_duplicate == "join" and not (kept.done() or may_never_run(kept)):
                return _as_proxy(kept)
            del futures._futures[key]
        if isinstance(future, FutureProxy):
            future.key = key  # before it is kept, or release_key() would not find it
        futures._futures[key] = future
        while futures.max_length is not None and len(futures._futures) > futures.max_length:
            finished = (
                k for k, kept in futures._futures.items() if kept.done() and kept is not future
            )
            del futures._futures[next(finished, next(iter(futures._futures)))]
    if shared is not None and isinstance(future, FutureProxy):
        note_change(future)  # not before: one that joins another has no record
    return None


def release_key(futures: FutureCollection[Any], future: FutureProxy[Any]) -> None:
    """Undo the claim of a future whose call was refused, and its record."""
    if (recorder := recorder_of(future)) is not None:
        recorder.on_refused(future)
    with futures._lock:
        if futures._futures.get(future.key) is future:
            del futures._futures[future.key]


@overload
def _as_proxy(future: None) -> None: ...
@overload
def _as_proxy(future: Future[R]) -> FutureProxy[R]: ...
def _as_proxy(future: Future[Any] | None) -> FutureProxy[Any] | None:
    """Make another executor's future awaitable, like ours."""
    if future is None or isinstance(future, FutureProxy):
        return future
    proxy: FutureProxy[Any] = FutureProxy()
    follow(proxy, future)
    return proxy


_collections: WeakSet[FutureCollection[Any]] = WeakSet()


@in_child
def _forget_parent() -> None:
    for collection in _collections:
        collection._lock = threading.RLock()
