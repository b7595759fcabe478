import concurrent.futures
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, Generic, ParamSpec, TypeVar

from flask import Flask
from flask.ctx import AppContext
from flask_executor.futures import FutureCollection, FutureProxy
from flask_executor.helpers import InstanceProxy

_P = ParamSpec("_P")
_R = TypeVar("_R")
_R_co = TypeVar("_R_co", covariant=True)

def get_current_app_context() -> AppContext | None: ...
def push_app_context(fn: Callable[_P, _R]) -> Callable[_P, _R]: ...
def propagate_exceptions_callback(future: concurrent.futures.Future[Any]) -> None: ...

class ExecutorJob(Generic[_P, _R_co]):
    executor: Executor
    fn: Callable[_P, _R_co]
    # No __call__: in the original a job cannot be called.
    def __init__(self, executor: Executor, fn: Callable[_P, _R_co]) -> None: ...
    def submit(self, *args: _P.args, **kwargs: _P.kwargs) -> FutureProxy[_R_co]: ...
    def submit_stored(
        self, future_key: Hashable, *args: _P.args, **kwargs: _P.kwargs
    ) -> FutureProxy[_R_co]: ...
    def map(
        self, *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[_R_co]: ...

class Executor(InstanceProxy, concurrent.futures.Executor):
    app: Flask | None
    futures: FutureCollection
    name: str
    EXECUTOR_TYPE: str
    EXECUTOR_MAX_WORKERS: str
    EXECUTOR_FUTURES_MAX_LENGTH: str
    EXECUTOR_PROPAGATE_EXCEPTIONS: str
    EXECUTOR_PUSH_APP_CONTEXT: str
    def __init__(self, app: Flask | None = None, name: str = "") -> None: ...
    def init_app(self, app: Flask) -> None: ...
    def submit(
        self, fn: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> FutureProxy[_R]: ...
    def submit_stored(
        self, future_key: Hashable, fn: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs
    ) -> FutureProxy[_R]: ...
    def job(self, fn: Callable[_P, _R]) -> ExecutorJob[_P, _R]: ...
    def add_default_done_callback(
        self, fn: Callable[[concurrent.futures.Future[Any]], object]
    ) -> None: ...
