"""A database against the store in memory: whatever is done to both, in any order, they agree.

Also if a process is killed before or after any statement of a step: then the step was done, or it
was not.
"""

from __future__ import annotations

import copy
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest

from flask_executor_typed.futures import OnDuplicate
from flask_executor_typed.stores.memory import MemoryStore
from flask_executor_typed.stores.protocol import Burial, Query, Store
from flask_executor_typed.stores.records import Row
from flask_executor_typed.stores.redis import RedisStore
from flask_executor_typed.stores.sqlite import SqliteStore

from .helpers.services import RedisServer, redis_server
from .helpers.stores import SPACE, empty_redis, owner_of, row_of

pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

JOBS = [f"job-{number}" for number in range(5)]
OWNERS = ["o1", "o2"]
KEYS = ['"k1"', '"k2"']
SPACES = [SPACE, "other"]

jobs = st.sampled_from(JOBS)
owners = st.sampled_from(OWNERS)
keys = st.sampled_from(KEYS)
spaces = st.sampled_from(SPACES)
duplicates = st.sampled_from(["error", "join", "replace"])
kills = st.none() | st.tuples(st.integers(1, 8), st.booleans())
"""The statement at which the process is killed, and whether it is done before that."""


class Killed(BaseException):
    """In place of the end of the process."""


class MortalConnection(sqlite3.Connection):
    """Dies at a statement. What it has not committed is gone, as with its process."""

    left: ClassVar[int | None] = None
    is_done: ClassVar[bool] = False

    def execute(self, *args: Any) -> sqlite3.Cursor:
        return self._mortal(super().execute, *args)

    def executemany(self, *args: Any) -> sqlite3.Cursor:
        return self._mortal(super().executemany, *args)

    def _mortal(self, step: Callable[..., sqlite3.Cursor], *args: Any) -> sqlite3.Cursor:
        if MortalConnection.left is None:
            return step(*args)
        MortalConnection.left -= 1
        if MortalConnection.left == 0 and MortalConnection.is_done:
            step(*args)
        if MortalConnection.left <= 0:
            raise Killed
        return step(*args)


def copied(store: MemoryStore) -> MemoryStore:
    other = MemoryStore()
    for name, value in vars(store).items():
        if name != "_lock":
            setattr(other, name, copy.deepcopy(value))
    return other


def all_of(store: Store) -> Any:
    """All that can be read of a store, in an order of its own."""
    found = store.get(JOBS, results=True)
    return (
        dict(sorted(found.items())),
        {space: [row.id for row in store.page(space, Query())] for space in SPACES},
        {(space, key): has_key(store, space, key) for space in SPACES for key in KEYS},
        {space: (store.counts(space, None), store.count_keys(space)) for space in SPACES},
        {space: sorted(store.untold(space)) for space in SPACES},
        {owner: sorted(store.asked_to_cancel(owner)) for owner in OWNERS},
        sorted(
            (owner.id, 0 if owner.dead else owner.beats, owner.dead) for owner in store.owners()
        ),
        {(job, number): store.piece(job, number) for job in JOBS for number in range(2)},
    )


def has_key(store: Store, space: str, key: str) -> str | None:
    row = store.find(space, key)
    return None if row is None else row.id


def plain(answer: object) -> object:
    """An answer without the order that a set gives it, and without results."""
    if isinstance(answer, Burial):
        return sorted(answer.lost), sorted(row.id for row in answer.again)
    if isinstance(answer, Row):
        return replace(answer, result=None)
    return sorted(cast("list[str]", answer)) if isinstance(answer, list) else answer


class Both(RuleBasedStateMachine):
    """A store, and the model of it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = MemoryStore()
        self.store = self.open()
        self.now = 1000.0
        self.final: dict[str, Row] = {}
        self.told: set[str] = set()

    def open(self) -> Store:
        raise NotImplementedError

    def do(self, step: Callable[[Store], object], kill: tuple[int, bool] | None) -> object:
        self.now += 1.0
        before = copied(self.model)
        expected = plain(step(self.model))
        MortalConnection.left, MortalConnection.is_done = kill or (None, False)
        try:
            answer = plain(step(self.store))
        except Killed:
            self.store.close()
            MortalConnection.left = None
            state = all_of(self.store)
            if state != all_of(self.model):
                assert state == all_of(before)
                self.model = before
            return None
        finally:
            MortalConnection.left = None
        assert answer == expected
        return answer

    @initialize(owned=st.lists(st.none() | owners, min_size=3, max_size=3), retries=st.booleans())
    def begin(self, owned: list[str | None], retries: bool) -> None:
        """Begin with jobs that wait: random steps of their own would seldom find one."""

        def register(store: Store) -> None:
            for owner in OWNERS:
                store.register(owner_of(owner))

        self.do(register, None)
        rows = [
            row_of(job, owner=owner, step=0, retries=int(retries))
            for job, owner in zip(JOBS, owned, strict=False)
        ]
        self.do(lambda store: store.write(rows), None)

    @rule(owner=owners, kill=kills)
    def register(self, owner: str, kill: Any) -> None:
        self.do(lambda store: store.register(owner_of(owner)), kill)

    @rule(owner=owners, kill=kills)
    def beat(self, owner: str, kill: Any) -> None:
        self.do(lambda store: store.beat(owner), kill)

    @rule(owner=owners, kill=kills)
    def retire(self, owner: str, kill: Any) -> None:
        self.do(lambda store: store.retire(owner), kill)

    @rule(owner=owners, kill=kills)
    def bury(self, owner: str, kill: Any) -> None:
        if owner not in {each.id for each in self.model.owners()}:
            return  # whether it was done could not be seen
        now = self.now
        self.do(lambda store: store.bury(owner, "why", now), kill)

    @rule(job=jobs, owner=owners, kill=kills)
    def lose(self, job: str, owner: str, kill: Any) -> None:
        now = self.now
        self.do(lambda store: store.lose(job, owner, "why", now), kill)

    @rule(job=jobs, kill=kills)
    def tell(self, job: str, kill: Any) -> None:
        if self.do(lambda store: store.tell(job), kill):
            assert job not in self.told
            self.told.add(job)

    @rule(
        job=jobs,
        owner=st.none() | owners,
        space=spaces,
        key=st.none() | keys,
        status=st.sampled_from(["pending", "running", "succeeded", "failed", "cancelled"]),
        more=st.fixed_dictionaries(
            {
                "step": st.integers(1, 4),
                "retries": st.integers(0, 1),
                "held": st.integers(0, 1),
                "expires": st.none() | st.integers(1000, 1030).map(float),
                "result": st.none() | st.just(b"12345"),
                "user": st.none() | st.just("ann"),
            }
        ),
        kill=kills,
    )
    def write(
        self,
        job: str,
        owner: str | None,
        space: str,
        key: str | None,
        status: str,
        more: dict[str, Any],
        kill: Any,
    ) -> None:
        known = self.model.get([job]).get(job)
        if known is not None:  # what does not change in a job's life
            space, more["user"], more["listed"] = known.space, known.user, known.listed
        finished = self.now if status not in {"pending", "running"} else None
        size = 0 if more["result"] is None or finished is None else 5
        row = row_of(
            job,
            owner=owner,
            space=space,
            key=key,
            status=status,
            finished=finished,
            result_size=size,
            **more,
        )
        self.do(lambda store: store.write([row]), kill)

    @rule(
        job=jobs, owner=owners, space=spaces, key=keys, on_duplicate=duplicates, held=st.booleans()
    )
    def claim(
        self, job: str, owner: str, space: str, key: str, on_duplicate: OnDuplicate, held: bool
    ) -> None:
        self.claim_once(job, owner, space, key, on_duplicate, held, None)

    @rule(job=jobs, owner=owners, space=spaces, key=keys, on_duplicate=duplicates, kill=kills)
    def claim_and_die(
        self, job: str, owner: str, space: str, key: str, on_duplicate: OnDuplicate, kill: Any
    ) -> None:
        self.claim_once(job, owner, space, key, on_duplicate, False, kill)

    def claim_once(
        self,
        job: str,
        owner: str,
        space: str,
        key: str,
        on_duplicate: OnDuplicate,
        held: bool,
        kill: Any,
    ) -> None:
        if self.model.get([job]) and has_key(self.model, space, key) != job:
            return  # an id is claimed for once
        row = row_of(job, owner=owner, space=space, key=key, held=int(held))
        self.do(lambda store: store.claim(row, on_duplicate), kill)

    @rule(job=jobs, space=spaces, key=keys, kill=kills)
    def release(self, job: str, space: str, key: str, kill: Any) -> None:
        self.do(lambda store: store.release(space, key, job), kill)

    @rule(space=spaces, key=keys, kill=kills)
    def pop(self, space: str, key: str, kill: Any) -> None:
        self.do(lambda store: store.pop(space, key), kill)

    @rule(job=jobs, owner=owners, listed=st.integers(0, 1), retries=st.integers(0, 1), kill=kills)
    def enqueue(self, job: str, owner: str, listed: int, retries: int, kill: Any) -> None:
        known = self.model.get([job]).get(job)
        more: dict[str, Any] = {"listed": listed}
        if known is not None:  # what does not change in a job's life
            more = {"listed": known.listed, "space": known.space, "user": known.user}
        row = row_of(job, owner=None, step=5, retries=retries, **more)
        self.do(lambda store: store.enqueue(row, owner), kill)

    @rule(job=jobs, kill=kills)
    def withdraw(self, job: str, kill: Any) -> None:
        if self.do(lambda store: store.withdraw(job), kill):
            self.forget(job)

    @rule(job=jobs, owner=owners, number=st.integers(0, 1), kill=kills)
    def add_piece(self, job: str, owner: str, number: int, kill: Any) -> None:
        self.do(lambda store: store.add_piece(job, owner, number, b"piece"), kill)

    @rule(job=jobs, attempt=st.integers(1, 2), owner=owners, kill=kills)
    def take(self, job: str, attempt: int, owner: str, kill: Any) -> None:
        now, worker = self.now, owner_of(owner)
        self.do(lambda store: store.take(job, attempt, worker, now), kill)

    @rule(space=spaces, kill=kills)
    def expire(self, space: str, kill: Any) -> None:
        now = self.now
        self.do(lambda store: store.expire(space, now), kill)

    @rule(job=jobs, force=st.booleans(), kill=kills)
    def ask_to_cancel(self, job: str, force: bool, kill: Any) -> None:
        now = self.now
        self.do(lambda store: store.ask_to_cancel(job, now, kill=force), kill)

    @rule(
        space=spaces,
        age=st.sampled_from([0.0, 10.0, 1e4]),
        keep=st.none() | st.integers(0, 2),
        size=st.none() | st.integers(0, 9),
        limit=st.integers(1, 3),
        kill=kills,
    )
    def purge(
        self, space: str, age: float, keep: int | None, size: int | None, limit: int, kill: Any
    ) -> None:
        before = self.now - age
        self.do(
            lambda store: store.purge(
                space, finished_before=before, keep=keep, keep_bytes=size, limit=limit
            ),
            kill,
        )
        for job in set(JOBS) - set(self.model.get(JOBS)):
            self.forget(job)

    def forget(self, job: str) -> None:
        self.final.pop(job, None)
        self.told.discard(job)

    @precondition(lambda self: self.now > 1000.0)
    @invariant()
    def agree(self) -> None:
        assert all_of(self.store) == all_of(self.model)

    @invariant()
    def what_is_final_stays(self) -> None:
        rows = self.store.get(JOBS)
        for job, row in self.final.items():
            kept = rows[job]
            assert (kept.status, kept.finished, kept.error_type) == (
                row.status,
                row.finished,
                row.error_type,
            )
        self.final.update({job: row for job, row in rows.items() if row.done})

    def teardown(self) -> None:
        self.store.close()


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


STEPS = settings(
    max_examples=30,
    stateful_step_count=30,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],  # shrinking takes minutes
    suppress_health_check=[HealthCheck.too_slow],
)


def test_sqlite_agrees_with_the_store_in_memory_whenever_a_process_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect: Any = partial(sqlite3.connect, factory=MortalConnection)
    monkeypatch.setattr(sqlite3, "connect", connect)

    class OnSqlite(Both):
        def open(self) -> Store:
            return SqliteStore(Path(tempfile.mkdtemp(dir=tmp_path), "jobs.db"))

    run_state_machine_as_test(OnSqlite, settings=STEPS)


def test_redis_agrees_with_the_store_in_memory(redis: RedisServer) -> None:
    class OnRedis(Both):
        def open(self) -> Store:
            empty_redis(redis)
            return RedisStore(redis.url, redis.url, ttl=1e6)

    run_state_machine_as_test(OnRedis, settings=STEPS)
