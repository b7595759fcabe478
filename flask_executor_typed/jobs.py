"""``@executor.job``: a function that can submit itself.

The only module that wraps user functions. A job is called like the function, and looks like it to
``inspect``, to Flask and to type checkers.
"""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from types import CodeType, MethodType
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    NoReturn,
    ParamSpec,
    Protocol,
    TypeVar,
    overload,
)

from typing_extensions import Self, Unpack
from typing_extensions import TypeVar as TypeVarWithDefault

from .after_commit import SessionLike
from .callables import check_function
from .calls import Backoff
from .futures import FutureKey, FutureProxy, OnDuplicate
from .map import MapOptions, Results
from .runtime.logs import without_data

__all__ = ("ExecutorJob", "JobDecorator", "Submitter", "no_attribute")

_SUBMITS_ELSEWHERE = frozenset(
    {"add_task", "apply_async", "delay", "enqueue", "queue", "schedule", "send", "spawn"}
)
"""The names of ``submit`` in Celery, RQ, Huey, Dramatiq, Starlette and so on."""


def no_attribute(owner: object, name: str) -> AttributeError:
    """Return the error for a missing attribute, with a hint if another library has it."""
    hint = "; use submit()" if name in _SUBMITS_ELSEWHERE else ""
    text = f"{type(owner).__name__!r} object has no attribute {name!r}{hint}"
    return AttributeError(text, name=name, obj=owner)


P = ParamSpec("P")
P2 = ParamSpec("P2")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")
S_contra = TypeVar("S_contra", contravariant=True)
V = TypeVar("V")
V_co = TypeVar("V_co", covariant=True)
T_contra = TypeVarWithDefault("T_contra", contravariant=True, default=Any)
A1 = TypeVar("A1")
A2 = TypeVar("A2")
A3 = TypeVar("A3")
A4 = TypeVar("A4")
A5 = TypeVar("A5")
A1_contra = TypeVar("A1_contra", contravariant=True)
A2_contra = TypeVar("A2_contra", contravariant=True)
A3_contra = TypeVar("A3_contra", contravariant=True)
A4_contra = TypeVar("A4_contra", contravariant=True)
A5_contra = TypeVar("A5_contra", contravariant=True)


class Submitter(Protocol):
    """The part of an executor that its jobs use."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> FutureProxy[Any]: ...

    def submit_under(
        self,
        key: Any,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> FutureProxy[Any]: ...

    def map(
        self, fn: Callable[..., Any], *iterables: Iterable[Any], **options: Unpack[MapOptions]
    ) -> Results[Any]: ...

    def using(  # noqa: PLR0913  # one for each option
        self,
        *,
        key: Hashable | FutureKey[Any] | None = None,
        on_duplicate: OnDuplicate | None = None,
        name: str | None = None,
        timeout: float | None = None,
        retries: int | None = None,
        backoff: Backoff | None = None,
        block: float | None = None,
        user: str | None = None,
        labels: Mapping[str, str] | None = None,
        record: bool | None = None,
        queue: str | None = None,
        priority: int | None = None,
        delay: float | None = None,
        expires: float | None = None,
    ) -> Submitter: ...

    def after_response(self) -> Submitter: ...

    def after_commit(self, session: SessionLike) -> Submitter: ...


# A job whose plain call returns an awaitable: with any parameters, or with as many as map() has
# iterables. Protocols, because mypy does not accept ``self: Callable[[A1], Awaitable[V]]``.
class _Async(Protocol[P, V_co]):
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Awaitable[V_co]: ...


class _Async1(Protocol[A1_contra, V_co]):
    def __call__(self, a1: A1_contra, /) -> Awaitable[V_co]: ...


class _Async2(Protocol[A1_contra, A2_contra, V_co]):
    def __call__(self, a1: A1_contra, a2: A2_contra, /) -> Awaitable[V_co]: ...


class _Async3(Protocol[A1_contra, A2_contra, A3_contra, V_co]):
    def __call__(self, a1: A1_contra, a2: A2_contra, a3: A3_contra, /) -> Awaitable[V_co]: ...


class _Async4(Protocol[A1_contra, A2_contra, A3_contra, A4_contra, V_co]):
    def __call__(
        self, a1: A1_contra, a2: A2_contra, a3: A3_contra, a4: A4_contra, /
    ) -> Awaitable[V_co]: ...


class _Async5(Protocol[A1_contra, A2_contra, A3_contra, A4_contra, A5_contra, V_co]):
    def __call__(
        self, a1: A1_contra, a2: A2_contra, a3: A3_contra, a4: A4_contra, a5: A5_contra, /
    ) -> Awaitable[V_co]: ...


class _OfClass(Protocol[S_contra, P]):
    """A function of a class."""

    def __call__(self, cls: type[S_contra], /, *args: P.args, **kwargs: P.kwargs) -> object: ...


class ExecutorJob(Generic[P, R_co, T_contra]):
    """A function bound to an executor. Calling it runs the function, as if it were not decorated.

    ``R_co`` is the type that the plain call returns: for an ``async def``, a coroutine. Futures of
    the job have the result of that coroutine. ``T_contra`` is the result type of the executor.
    """

    __name__: str
    __qualname__: str
    __wrapped__: Callable[P, R_co]

    fn: Callable[P, R_co]
    """The function itself."""

    executor: Submitter
    """The executor that the job submits to, with the options of :meth:`using`."""

    def __init__(self, executor: Submitter, fn: Callable[P, R_co]) -> None:
        function: Any = fn
        self._is_static = isinstance(fn, staticmethod)
        self._is_of_class = isinstance(fn, classmethod)
        if self._is_static or self._is_of_class:
            # The object itself does not look like a coroutine function, or cannot be called.
            function = function.__func__
        given: Any = function  # whatever the annotation says
        if not callable(given):
            cure = f"; options are named: @executor.job(name={given!r})"
            raise TypeError(
                f"@executor.job got {given!r}, which cannot be called"
                + (cure if isinstance(given, str) else "")
            )
        check_function(given)
        functools.update_wrapper(self, given, updated=())
        attributes: dict[str, Any] = getattr(given, "__dict__", {})  # Flask reads some off a view
        vars(self).update({k: v for k, v in attributes.items() if not hasattr(ExecutorJob, k)})
        self.executor = executor
        self.fn = function
        code = getattr(function, "__code__", None)
        self._may_lack_class = _BINDS_NO_JOB and _is_in_class_body(
            code,
            getattr(self, "__qualname__", ""),  # a partial has none
        )
        if isinstance(code, CodeType):
            # With these, inspect takes the job for a function, and an async job for a coroutine
            # function. Flask asks inspect whether it must await a view.
            self.__code__ = code
            self.__defaults__: object = getattr(function, "__defaults__", None)
            self.__kwdefaults__: object = getattr(function, "__kwdefaults__", None)

    def __set_name__(self, owner: type, name: str) -> None:
        self._may_lack_class = False

    def _function(self) -> Callable[P, R_co]:
        """Return the function to submit.

        Raises:
            TypeError: the job is below ``@classmethod``, which did not bind it.
        """
        # The class calls __set_name__ on the job, unless a decorator above has replaced it. Only
        # the decorator's reference to the job shows which one. The heap is searched once, and only
        # for jobs in a class body with a decorator above them.
        if self._may_lack_class:
            if any(isinstance(each, classmethod) for each in gc.get_referrers(self)):
                raise TypeError(
                    f"{self.__qualname__} is a job below @classmethod, which binds no class to it "
                    "on Python 3.13 and later; put @executor.job above @classmethod"
                )
            self._may_lack_class = False
        return self.fn

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            raise no_attribute(self, name)

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        return self.fn(*args, **kwargs)

    def __reduce__(self) -> str:
        return self.__qualname__  # pickled like a function: by the name it can be imported under

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {without_data(self.fn)!r}>"

    # The first is for class methods, of which checkers see the function alone.
    @overload
    def __get__(
        self: _OfClass[S, P2], instance: S | None, owner: type[S], /
    ) -> ExecutorJob[P2, R_co, T_contra]: ...
    @overload
    def __get__(self, instance: None, owner: type | None = None, /) -> Self: ...
    @overload
    def __get__(
        self: Callable[Concatenate[S, P2], object], instance: S, owner: type | None = None, /
    ) -> ExecutorJob[P2, R_co, T_contra]: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None, /) -> Self: ...
    def __get__(self, instance: object, owner: type | None = None, /) -> Any:
        """Bind the function to an instance, as a method, or to the class."""
        fn: Any = self.fn
        if self._is_of_class:
            fn = MethodType(fn, type(instance) if owner is None else owner)
        elif instance is None or self._is_static or not hasattr(fn, "__get__"):
            return self
        else:
            fn = fn.__get__(instance, owner)
        return ExecutorJob[..., Any, Any](self.executor, fn)

    def using(  # noqa: PLR0913  # one for each option
        self,
        *,
        key: Hashable | FutureKey[Any] | None = None,
        on_duplicate: OnDuplicate | None = None,
        name: str | None = None,
        timeout: float | None = None,
        retries: int | None = None,
        backoff: Backoff | None = None,
        block: float | None = None,
        user: str | None = None,
        labels: Mapping[str, str] | None = None,
        record: bool | None = None,
        queue: str | None = None,
        priority: int | None = None,
        delay: float | None = None,
        expires: float | None = None,
    ) -> Self:
        """Return this job with options for its calls; see :meth:`Executor.using`."""
        return self._submitting_to(
            self.executor.using(
                key=key,
                on_duplicate=on_duplicate,
                name=name,
                timeout=timeout,
                retries=retries,
                backoff=backoff,
                block=block,
                user=user,
                labels=labels,
                record=record,
                queue=queue,
                priority=priority,
                delay=delay,
                expires=expires,
            )
        )

    def after_response(self) -> Self:
        """Return this job, to start after the response; see :meth:`Executor.after_response`."""
        return self._submitting_to(self.executor.after_response())

    def after_commit(self, session: SessionLike) -> Self:
        """Return this job, to start after a commit; see :meth:`Executor.after_commit`."""
        return self._submitting_to(self.executor.after_commit(session))

    def _submitting_to(self, executor: Submitter) -> Self:
        self._function()
        job = object.__new__(type(self))
        vars(job).update(vars(self))
        job.executor = executor
        return job

    # Two overloads for one case: with the first, mypy accepts only subclasses of Awaitable; with
    # the second, mypy and ty cannot solve a generic function.
    @overload
    def submit(
        self: ExecutorJob[P, Awaitable[V], T_contra], /, *args: P.args, **kwargs: P.kwargs
    ) -> FutureProxy[V]: ...
    @overload
    def submit(self: _Async[P2, V], /, *args: P2.args, **kwargs: P2.kwargs) -> FutureProxy[V]: ...
    @overload
    def submit(self, /, *args: P.args, **kwargs: P.kwargs) -> FutureProxy[R_co]: ...
    def submit(self, /, *args: Any, **kwargs: Any) -> FutureProxy[Any]:
        """Run the function in the background; see :meth:`Executor.submit`."""
        return self.executor.submit(self._function(), *args, **kwargs)

    @overload
    def submit_stored(
        self: ExecutorJob[P, Awaitable[V], T_contra],
        /,
        future_key: FutureKey[V],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> FutureProxy[V]: ...
    @overload
    def submit_stored(
        self: ExecutorJob[P, V | Awaitable[V], T_contra],
        /,
        future_key: FutureKey[V],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> FutureProxy[V]: ...
    @overload
    def submit_stored(
        self: ExecutorJob[P, Awaitable[V], object],
        /,
        future_key: Hashable,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> FutureProxy[V]: ...
    @overload
    def submit_stored(
        self: ExecutorJob[P, V, object], /, future_key: Hashable, *args: P.args, **kwargs: P.kwargs
    ) -> FutureProxy[V]: ...
    @overload
    def submit_stored(
        self: ExecutorJob[P, Awaitable[V], V],
        /,
        future_key: Hashable,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> FutureProxy[V]: ...
    @overload
    def submit_stored(
        self: ExecutorJob[P, V | Awaitable[V], V],
        /,
        future_key: Hashable,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> FutureProxy[V]: ...
    def submit_stored(self, /, future_key: Any, *args: Any, **kwargs: Any) -> FutureProxy[Any]:
        """Run the function and keep its future; see :meth:`Executor.submit_stored`."""
        return self.executor.submit_under(future_key, self._function(), args, kwargs)

    @overload
    def map(
        self: _Async1[A1, V], i1: Iterable[A1], /, **options: Unpack[MapOptions]
    ) -> Results[V]: ...
    @overload
    def map(
        self: _Async2[A1, A2, V],
        i1: Iterable[A1],
        i2: Iterable[A2],
        /,
        **options: Unpack[MapOptions],
    ) -> Results[V]: ...
    @overload
    def map(
        self: _Async3[A1, A2, A3, V],
        i1: Iterable[A1],
        i2: Iterable[A2],
        i3: Iterable[A3],
        /,
        **options: Unpack[MapOptions],
    ) -> Results[V]: ...
    @overload
    def map(
        self: _Async4[A1, A2, A3, A4, V],
        i1: Iterable[A1],
        i2: Iterable[A2],
        i3: Iterable[A3],
        i4: Iterable[A4],
        /,
        **options: Unpack[MapOptions],
    ) -> Results[V]: ...
    @overload
    def map(
        self: _Async5[A1, A2, A3, A4, A5, V],
        i1: Iterable[A1],
        i2: Iterable[A2],
        i3: Iterable[A3],
        i4: Iterable[A4],
        i5: Iterable[A5],
        /,
        **options: Unpack[MapOptions],
    ) -> Results[V]: ...
    @overload
    def map(
        self: Callable[[A1], object], i1: Iterable[A1], /, **options: Unpack[MapOptions]
    ) -> Results[R_co]: ...
    @overload
    def map(
        self: Callable[[A1, A2], object],
        i1: Iterable[A1],
        i2: Iterable[A2],
        /,
        **options: Unpack[MapOptions],
    ) -> Results[R_co]: ...
    @overload
    def map(
        self: Callable[[A1, A2, A3], object],
        i1: Iterable[A1],
        i2: Iterable[A2],
        i3: Iterable[A3],
        /,
        **options: Unpack[MapOptions],
    ) -> Results[R_co]: ...
    @overload
    def map(
        self: Callable[[A1, A2, A3, A4], object],
        i1: Iterable[A1],
        i2: Iterable[A2],
        i3: Iterable[A3],
        i4: Iterable[A4],
        /,
        **options: Unpack[MapOptions],
    ) -> Results[R_co]: ...
    @overload
    def map(
        self: Callable[[A1, A2, A3, A4, A5], object],
        i1: Iterable[A1],
        i2: Iterable[A2],
        i3: Iterable[A3],
        i4: Iterable[A4],
        i5: Iterable[A5],
        /,
        **options: Unpack[MapOptions],
    ) -> Results[R_co]: ...
    def map(self, *iterables: Iterable[Any], **options: Unpack[MapOptions]) -> Results[Any]:
        """Call the function for each item, in the background; see :meth:`Executor.map`."""
        return self.executor.map(self._function(), *iterables, **options)


_BINDS_NO_JOB = sys.version_info >= (3, 13)
"""Whether ``classmethod`` ignores the ``__get__`` of the object that it wraps."""


def _is_in_class_body(code: object, qualified_name: str) -> bool:
    """Return whether a function was defined in the body of a class."""
    return isinstance(code, CodeType) and "." in qualified_name.rpartition("<locals>.")[2]


class JobDecorator(Protocol[T_contra]):
    """The decorator that ``executor.job(...)`` with options returns."""

    def __call__(self, fn: Callable[P, R], /) -> ExecutorJob[P, R, T_contra]: ...
