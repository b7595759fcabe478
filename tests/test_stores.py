"""What every store promises: in memory, in a file of SQLite, in a real Redis."""

from __future__ import annotations

import dataclasses
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

from flask_executor_typed.errors import StoreError, UnstorableError
from flask_executor_typed.futures import OnDuplicate
from flask_executor_typed.stores.memory import MemoryStore
from flask_executor_typed.stores.protocol import Hears, Owner, Query, Store
from flask_executor_typed.stores.records import COLUMNS, EXPIRED, LOST, Row
from flask_executor_typed.stores.redis import RedisStore
from flask_executor_typed.stores.sqlite import SqliteStore

from .conftest import TIMEOUT
from .helpers.services import RedisServer, redis_server
from .helpers.stores import SPACE, empty_redis, owner_of, row_of, url_of_user

DATABASES = ("sqlite", "redis")
KINDS = ("memory", *DATABASES)
LONG_AGO = 0.0

T = TypeVar("T")
Opener = Callable[[], Store]


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(params=KINDS)
def open_again(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Opens the store once more, as another process would."""
    opened: list[Store] = []
    kind: str = request.param
    memory = MemoryStore()
    url = ""
    redis: RedisServer | None = request.getfixturevalue("redis") if kind == "redis" else None
    if redis is not None:
        empty_redis(redis)
        url = url_of_user(redis)  # the rights that the documentation names are enough

    def open_store() -> Store:
        store: Store = memory
        if kind == "sqlite":
            store = SqliteStore(tmp_path / "jobs.db")
        elif redis is not None:
            store = RedisStore(url, redis.url, ttl=100.0)
        opened.append(store)
        return store

    yield open_store
    for store in opened:
        store.close()


@pytest.fixture
def store(open_again: Opener) -> Store:
    store = open_again()
    store.register(owner_of("o1"))
    return store


def got(store: Store, job_id: str) -> Row:
    return store.get([job_id], results=True)[job_id]


def has_key(store: Store, key: str) -> str | None:
    """The id of the job that has a key."""
    row = store.find(SPACE, key)
    return None if row is None else row.id


def ids(rows: list[Row]) -> list[str]:
    return [row.id for row in rows]


def finish(store: Store, job_id: str, at: float, **values: Any) -> None:
    row = dataclasses.replace(got(store, job_id), status="succeeded", finished=at, **values)
    assert store.write([dataclasses.replace(row, step=row.step + 1)]) == []


# -- writing ---------------------------------------------------------------------------------------


def test_a_row_comes_back_as_it_was_written(store: Store) -> None:
    row = row_of(
        "a",
        kind="view",
        key='["report",7]',
        status="failed",
        attempts=3,
        retries=1,
        started=1001.5,
        finished=1002.25,
        expires=2000.125,
        progress_done=1.5,
        progress_total=3.0,
        progress_message="half \N{SNOWMAN} way",
        error_type="ValueError",
        error_message="no\nrows",
        error_traceback="Traceback",
        problem="{}",
        result_state="too_large",
        result_type="str",
        result_size=7,
        user="ann",
        labels='{"tenant": "x"}',
        held=1,
        cancel=0,
        listed=1,
        token=b"\0token",
        route="gpu",
        is_async=1,
        log_tail="line",
        result=bytes(range(256)),
    )
    assert {f for f in COLUMNS if getattr(row, f) == getattr(row_of("b"), f)} <= {
        *("space", "executor", "name", "owner", "server", "step", "version", "submitted"),
        *("cancel", "listed"),
    }
    assert store.write([row]) == []
    assert got(store, "a") == row
    assert store.get(["a"])["a"] == dataclasses.replace(row, result=None)


def test_empty_values_come_back_as_they_were_written(store: Store) -> None:
    row = row_of("a", user="", progress_message="", labels="{}", result=b"", progress_done=0.0)
    store.write([row])
    assert got(store, "a") == row


def test_records_that_do_not_exist_are_left_out(store: Store) -> None:
    store.write([row_of("a")])
    assert set(store.get(["a", "b"])) == {"a"}
    assert store.get([]) == {}


def test_a_later_row_takes_the_place_of_an_earlier_one_and_counts_the_change(store: Store) -> None:
    store.write([row_of("a")])
    store.write([row_of("a", step=2, status="running", started=1001.0)])
    row = got(store, "a")
    assert (row.status, row.started, row.version) == ("running", 1001.0, 2)


@pytest.mark.parametrize(
    "late",
    [
        row_of("a", step=2, status="pending"),
        row_of("a", step=1, status="succeeded", finished=1.0),
        row_of("a", step=9, owner="o2", status="succeeded", finished=1.0),
        row_of("a", step=9, owner=None, status="succeeded", finished=1.0),
    ],
    ids=["the same step", "an older step", "another owner", "no owner"],
)
def test_a_row_that_is_out_of_date_or_of_another_owner_is_refused(store: Store, late: Row) -> None:
    store.write([row_of("a", step=2, status="running")])
    assert store.write([row_of("b"), late, row_of("c")]) == ["a"]
    assert got(store, "a").status == "running"
    assert set(store.get(["b", "c"])) == {"b", "c"}


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled"])
def test_a_final_record_never_changes(store: Store, status: str) -> None:
    store.write([row_of("a", status=status, finished=1001.0)])
    before = got(store, "a")
    assert store.write([row_of("a", step=2, status="running")]) == ["a"]
    store.ask_to_cancel("a", 1002.0)
    store.bury("o1", "why", 1002.0)
    assert store.lose("a", "o1", "why", 1002.0).lost == []
    assert got(store, "a") == before


@pytest.mark.parametrize("open_again", DATABASES, indirect=True)
@pytest.mark.parametrize(
    "values", [{"name": "half \ud800"}, {"step": 2**70}, {"result": object()}], ids=str
)
def test_content_that_a_database_refuses_is_an_error_and_nothing_is_written(
    store: Store, values: dict[str, object]
) -> None:
    with pytest.raises(UnstorableError):
        store.write([row_of("a"), row_of("b", **values)])
    assert store.get(["a", "b"]) == {}
    assert store.write([row_of("a")]) == []


def test_a_writer_does_not_clear_that_cancelling_was_asked_for(store: Store) -> None:
    store.write([row_of("a")])
    store.ask_to_cancel("a", 1001.0)
    store.write([row_of("a", step=2, status="running", cancel=0)])
    assert got(store, "a").cancel == 1


# -- keys ------------------------------------------------------------------------------------------


def test_a_key_is_given_once(store: Store) -> None:
    assert store.claim(row_of("a", key='"k"'), "error") is None
    kept = store.claim(row_of("b", key='"k"'), "error")
    assert kept is not None
    assert kept.id == "a"
    assert set(store.get(["a", "b"])) == {"a"}
    assert has_key(store, '"k"') == "a"
    assert store.count_keys(SPACE) == 1


def test_a_key_of_another_space_is_another_key(store: Store) -> None:
    store.claim(row_of("a", key='"k"'), "error")
    assert store.claim(row_of("b", key='"k"', space="other"), "error") is None
    assert store.find("third", '"k"') is None


def test_with_error_the_key_of_a_finished_record_is_taken_too(store: Store) -> None:
    store.claim(row_of("a", key='"k"'), "error")
    finish(store, "a", 1001.0)
    kept = store.claim(row_of("b", key='"k"'), "error")
    assert kept is not None
    assert kept.status == "succeeded"


@pytest.mark.parametrize("state", ["unfinished", "finished", "held"])
def test_join_gives_the_record_that_has_the_key_unless_it_is_over_or_may_never_start(
    store: Store, state: str
) -> None:
    store.claim(row_of("a", key='"k"', held=int(state == "held")), "join")
    if state == "finished":
        finish(store, "a", 1001.0)
    kept = store.claim(row_of("b", key='"k"'), "join")
    found = store.find(SPACE, '"k"')
    assert found is not None
    if state == "unfinished":
        assert kept is not None
        assert kept.id == found.id == "a"
    else:
        assert kept is None
        assert found.id == "b"
        assert got(store, "a").id == "a"  # the record stays


def test_replace_takes_the_key_and_leaves_the_other_record(store: Store) -> None:
    store.claim(row_of("a", key='"k"'), "error")
    assert store.claim(row_of("b", key='"k"'), "replace") is None
    assert has_key(store, '"k"') == "b"
    assert got(store, "a").status == "pending"
    assert store.count_keys(SPACE) == 1


@pytest.mark.parametrize("state", ["pending", "done"])
def test_a_job_that_has_a_record_gets_a_key_and_nothing_else_of_it_changes(
    store: Store, state: str
) -> None:
    store.write([row_of("a", name="report")])
    if state == "done":
        store.write([row_of("a", name="report", step=2, status="succeeded", finished=1001.0)])
    before = store.get(["a"])["a"]
    assert store.claim(row_of("a", name="other", key='"k"'), "error") is None
    after = store.get(["a"])["a"]
    assert after == dataclasses.replace(before, key='"k"', version=before.version + 1)
    assert store.claim(row_of("a", key='"k"'), "error") is None
    assert store.get(["a"])["a"] == after  # it has it already
    kept = store.claim(row_of("b", key='"k"'), "error")
    assert kept is not None
    assert kept.id == "a"
    if state == "done":
        assert store.purge(SPACE, finished_before=2000.0) == 1
        assert store.count_keys(SPACE) == 0


@pytest.mark.parametrize("on_duplicate", ["error", "join", "replace"])
def test_a_claim_whose_answer_was_lost_can_be_repeated(
    store: Store, on_duplicate: OnDuplicate
) -> None:
    row = row_of("a", key='"k"')
    assert store.claim(row, on_duplicate) is None
    assert store.claim(row, on_duplicate) is None
    assert got(store, "a").version == 1


def test_pop_frees_the_key_and_the_record_stays(store: Store) -> None:
    store.claim(row_of("a", key='"k"'), "error")
    popped = store.pop(SPACE, '"k"')
    assert popped is not None
    assert popped.id == "a"
    assert store.pop(SPACE, '"k"') is None
    assert store.find(SPACE, '"k"') is None
    assert store.count_keys(SPACE) == 0
    assert got(store, "a").id == "a"
    assert store.claim(row_of("b", key='"k"'), "error") is None


def test_release_frees_only_the_key_of_that_job(store: Store) -> None:
    store.claim(row_of("a", key='"k"'), "error")
    store.claim(row_of("b", key='"k"'), "replace")
    store.release(SPACE, '"k"', "a")
    assert store.count_keys(SPACE) == 1
    store.release(SPACE, '"k"', "b")
    assert store.count_keys(SPACE) == 0


def test_a_row_that_comes_late_gets_its_key_if_that_is_free(store: Store) -> None:
    store.claim(row_of("a", key='"taken"'), "error")
    store.write([row_of("b", key='"taken"'), row_of("c", key='"free"')])
    assert (has_key(store, '"taken"'), has_key(store, '"free"')) == ("a", "c")


def test_a_row_that_is_written_again_does_not_get_back_a_key_that_was_popped(store: Store) -> None:
    store.claim(row_of("a", key='"k"'), "error")
    store.pop(SPACE, '"k"')
    store.write([row_of("a", key='"k"', step=2, status="running")])
    assert store.find(SPACE, '"k"') is None


def test_of_many_that_claim_a_key_one_gets_it(open_again: Opener, store: Store) -> None:
    rivals = 16
    stores = [store, open_again()]
    together = threading.Barrier(rivals)

    def claim(number: int) -> str:
        together.wait(TIMEOUT)
        kept = patiently(
            lambda: stores[number % 2].claim(row_of(f"job-{number}", key='"k"'), "join")
        )
        return f"job-{number}" if kept is None else kept.id

    with ThreadPoolExecutor(rivals) as pool:
        winners = set(pool.map(claim, range(rivals)))
    assert len(winners) == 1
    assert store.count_keys(SPACE) == 1
    assert len(store.page(SPACE, Query())) == 1


def test_of_many_that_pop_a_key_one_gets_it(open_again: Opener, store: Store) -> None:
    store.claim(row_of("a", key='"k"'), "error")
    rivals = 16
    stores = [store, open_again()]
    together = threading.Barrier(rivals)

    def pop(number: int) -> bool:
        together.wait(TIMEOUT)
        return patiently(lambda: stores[number % 2].pop(SPACE, '"k"')) is not None

    with ThreadPoolExecutor(rivals) as pool:
        assert sum(pool.map(pop, range(rivals))) == 1


def patiently(step: Callable[[], T]) -> T:
    """A step that a busy machine may need more than one try for."""
    limit = time.monotonic() + TIMEOUT
    while True:
        try:
            return step()
        except StoreError:
            if time.monotonic() > limit:
                raise


# -- processes -------------------------------------------------------------------------------------


def test_a_process_beats_until_it_is_buried(store: Store) -> None:
    assert store.beat("o1") == "ok"
    assert store.beat("o1") == "ok"
    assert [owner.beats for owner in store.owners()] == [2]
    store.bury("o1", "why", 1001.0)
    assert store.beat("o1") == "dead"
    assert store.beat("unknown") == "gone"


def test_an_owner_comes_back_as_it_was_registered(store: Store) -> None:
    owner = owner_of("o2", host="boot pid:[1]", pid=77, born="123", server="web-1:77")
    store.register(owner)
    store.register(dataclasses.replace(owner, pid=78))
    assert owner in store.owners()
    assert len(store.owners()) == 2


def test_owners_are_the_living_and_those_that_left_unfinished_records(store: Store) -> None:
    store.register(owner_of("idle and dead"))
    store.bury("idle and dead", "why", 1001.0)
    store.register(owner_of("wrote after its burial"))
    store.bury("wrote after its burial", "why", 1001.0)
    store.write([row_of("a", owner="wrote after its burial"), row_of("b", owner="unknown")])
    store.write([row_of("c", owner=None)])
    owners = {owner.id: owner for owner in store.owners()}
    assert set(owners) == {"o1", "wrote after its burial", "unknown"}
    assert owners["wrote after its burial"].dead
    assert owners["unknown"] == Owner(id="unknown", host="", pid=0, born="")


def test_retiring_needs_all_records_to_be_final(store: Store) -> None:
    store.write([row_of("a")])
    assert not store.retire("o1")
    assert store.beat("o1") == "ok"
    finish(store, "a", 1001.0)
    assert store.retire("o1")
    assert store.owners() == []
    assert store.beat("o1") == "gone"


def test_bury_ends_what_the_process_had_open_and_nothing_else(store: Store) -> None:
    store.write(
        [
            row_of("pending"),
            row_of("running", status="running", started=1001.0),
            row_of("done", status="succeeded", finished=1001.0),
            row_of("other", owner="o2"),
            row_of("free", owner=None),
        ]
    )
    assert sorted(store.bury("o1", "killed", 1002.0).lost) == ["pending", "running"]
    lost = got(store, "running")
    assert (lost.status, lost.finished, lost.version) == ("lost", 1002.0, 2)
    assert (lost.error_type, lost.error_message) == (LOST, "killed")
    assert {each: got(store, each).status for each in ("done", "other", "free")} == {
        "done": "succeeded",
        "other": "pending",
        "free": "pending",
    }
    assert store.bury("o1", "killed", 1003.0).lost == []


def test_what_a_buried_process_writes_is_refused_or_lost_as_well(store: Store) -> None:
    store.write([row_of("a")])
    store.bury("o1", "why", 1001.0)
    assert store.write([row_of("a", step=2, status="succeeded", finished=1002.0)]) == ["a"]
    assert got(store, "a").status == "lost"
    store.write([row_of("b", step=1)])  # it has not noticed yet
    assert store.bury("o1", "why", 1003.0).lost == ["b"]


def test_of_many_that_bury_a_process_each_lost_job_is_told_by_one(
    open_again: Opener, store: Store
) -> None:
    jobs = [f"job-{number}" for number in range(20)]
    store.write([row_of(job) for job in jobs])
    rivals = 8
    stores = [store, open_again()]
    together = threading.Barrier(rivals)

    def bury(number: int) -> tuple[list[str], list[str]]:
        here = stores[number % 2]
        together.wait(TIMEOUT)
        lost = here.bury("o1", "why", 1001.0, patient=True).lost
        told = [each for each in here.untold(SPACE) if patiently(partial(here.tell, each))]
        return lost, told

    with ThreadPoolExecutor(rivals) as pool:
        lost, told = zip(*pool.map(bury, range(rivals)), strict=True)
    assert sorted(job for each in lost for job in each) == sorted(jobs)
    assert sorted(job for each in told for job in each) == sorted(jobs)
    assert store.untold(SPACE) == []


def test_a_lost_job_is_told_once_in_its_own_space(store: Store) -> None:
    store.write([row_of("a"), row_of("b", space="other")])
    store.bury("o1", "why", 1001.0)
    assert store.untold(SPACE) == ["a"]
    assert store.tell("a")
    assert not store.tell("a")
    assert not store.tell("unknown")
    assert store.untold(SPACE) == []
    assert store.untold("other") == ["b"]


# -- engines ---------------------------------------------------------------------------------------


def test_one_worker_takes_a_job_that_waits_in_an_engine(store: Store) -> None:
    store.write([row_of("a", owner=None, token=b"message")])
    taken = store.take("a", 1, owner_of("w1", server="worker:1"), 1001.0)
    assert taken is not None
    assert (taken.owner, taken.server, taken.status) == ("w1", "worker:1", "running")
    assert (taken.started, taken.token, taken.version) == (1001.0, b"message", 2)
    assert got(store, "a") == taken
    assert store.take("a", 1, owner_of("w2"), 1001.0) is None
    assert store.write([row_of("a", owner="w1", step=2, status="succeeded", finished=1.0)]) == []


def test_of_many_workers_that_take_a_job_one_gets_it(open_again: Opener, store: Store) -> None:
    store.write([row_of("a", owner=None)])
    rivals = 16
    stores = [store, open_again()]
    together = threading.Barrier(rivals)

    def take(number: int) -> bool:
        together.wait(TIMEOUT)
        here, worker = stores[number % 2], owner_of(f"w{number}")
        return patiently(lambda: here.take("a", 1, worker, 1001.0)) is not None

    with ThreadPoolExecutor(rivals) as pool:
        assert sum(pool.map(take, range(rivals))) == 1


@pytest.mark.parametrize(
    ("values", "attempt"),
    [
        ({"owner": "o1"}, 1),
        ({"status": "cancelled", "finished": 1001.0}, 1),
        ({"attempts": 2}, 1),
        ({"attempts": 1}, 2),
    ],
    ids=["owned", "done", "an earlier attempt", "a later attempt"],
)
def test_a_message_that_is_out_of_date_takes_nothing(
    store: Store, values: dict[str, object], attempt: int
) -> None:
    store.write([row_of("a", **{"owner": None, **values})])
    before = got(store, "a")
    assert store.take("a", attempt, owner_of("w1"), 1002.0) is None
    assert store.take("unknown", 1, owner_of("w1"), 1002.0) is None
    assert got(store, "a") == before


def test_a_job_with_retries_left_waits_again_when_its_worker_dies(store: Store) -> None:
    store.write([row_of("a", owner=None, retries=1, token=b"message")])
    store.take("a", 1, owner_of("w1"), 1001.0)
    burial = store.bury("w1", "why", 1002.0)
    assert burial.lost == []
    (again,) = burial.again
    assert again == got(store, "a")
    assert (again.owner, again.status, again.started) == (None, "pending", None)
    assert (again.attempts, again.retries, again.token) == (2, 0, b"message")
    assert store.write([row_of("a", owner="w1", step=9, status="succeeded", finished=1.0)]) == ["a"]
    assert store.take("a", 1, owner_of("w2"), 1003.0) is None  # an old message
    assert store.take("a", 2, owner_of("w2"), 1003.0) is not None
    assert store.bury("w2", "why", 1004.0).lost == ["a"]
    assert got(store, "a").attempts == 2


def test_losing_one_job_leaves_the_others_of_its_worker(store: Store) -> None:
    store.write([row_of("a", status="running"), row_of("b", status="running")])
    assert store.lose("a", "o2", "why", 1001.0).lost == []  # not its own
    assert store.lose("a", "o1", "why", 1001.0).lost == ["a"]
    assert store.lose("a", "o1", "why", 1001.0).lost == []
    assert (got(store, "a").status, got(store, "b").status) == ("lost", "running")
    assert store.untold(SPACE) == ["a"]
    assert store.beat("o1") == "ok"


def test_a_job_that_no_worker_took_in_time_fails(store: Store) -> None:
    store.write(
        [
            row_of("due", owner=None, expires=1005.0),
            row_of("later", owner=None, expires=1006.5),
            row_of("never", owner=None),
            row_of("taken", owner=None, expires=1005.0),
            row_of("other", owner=None, expires=1005.0, space="other"),
        ]
    )
    assert store.take("taken", 1, owner_of("w1"), 1004.0) is not None
    assert store.expire(SPACE, 1004.0) == []
    assert store.expire(SPACE, 1006.0) == ["due"]
    expired = got(store, "due")
    assert (expired.status, expired.finished, expired.error_type) == ("failed", 1006.0, EXPIRED)
    assert store.take("later", 1, owner_of("w1"), 1007.0) is None  # a late message ends it too
    assert got(store, "later").status == "failed"
    assert got(store, "taken").status == "running"
    assert got(store, "never").status == "pending"


def test_a_pending_job_is_handed_to_an_engine_by_its_owner(store: Store) -> None:
    store.register(owner_of("o1"))
    store.claim(row_of("a", key='"k"', held=1), "error")
    store.write([row_of("running", status="running"), row_of("other", owner="o2")])
    waiting = {"owner": None, "server": "", "step": 2, "token": b"signed", "retries": 1}
    ids = ("a", "new", "running", "other")
    rows = [row_of(each, **waiting) for each in ids]
    assert [store.enqueue(row, "o1") for row in rows] == [True, True, False, False]
    assert not store.enqueue(rows[0], "o1")  # it has no owner now
    job = store.get(["a"])["a"]
    assert (job.owner, job.token, job.retries, job.held, job.key) == (None, b"signed", 1, 0, '"k"')
    found = store.find(SPACE, '"k"')
    assert found is not None
    assert found.id == "a"
    assert store.write([row_of("a", step=3)]) == ["a"]  # by its former owner, too late
    assert store.bury("o1", "gone", 1001.0).lost == ["running"]  # not what the engine has
    taken = store.take("a", 1, owner_of("w1"), 1002.0)
    assert taken is not None
    assert (taken.status, taken.token) == ("running", b"signed")


def test_an_unlisted_record_can_be_withdrawn_when_its_job_is_done(store: Store) -> None:
    store.write([row_of("part", listed=0), row_of("whole")])
    assert not store.withdraw("part")
    finish(store, "part", 1001.0, listed=0)
    finish(store, "whole", 1001.0)
    assert [store.withdraw(each) for each in ("part", "whole")] == [True, False]


def test_only_a_job_that_no_worker_has_taken_can_be_withdrawn(store: Store) -> None:
    store.claim(row_of("a", owner=None, key='"k"'), "error")
    store.write([row_of("taken", owner=None), row_of("owned")])
    store.take("taken", 1, owner_of("w1"), 1001.0)
    assert [store.withdraw(each) for each in ("a", "a", "taken", "owned", "unknown")] == [
        True,
        False,
        False,
        False,
        False,
    ]
    assert set(store.get(["a", "taken", "owned"])) == {"taken", "owned"}
    assert store.count_keys(SPACE) == 0


# -- cancelling ------------------------------------------------------------------------------------


def test_asking_to_cancel_marks_a_job_for_its_owner(store: Store) -> None:
    store.write([row_of("a"), row_of("b"), row_of("c", owner="o2"), row_of("d")])
    asked = store.ask_to_cancel("a", 1001.0)
    assert asked is not None
    assert (asked.cancel, asked.status, asked.version) == (1, "pending", 2)
    store.ask_to_cancel("b", 1001.0, kill=True)
    store.ask_to_cancel("b", 1001.0)  # asks for less than there is
    store.ask_to_cancel("c", 1001.0)
    assert sorted(store.asked_to_cancel("o1")) == [("a", False), ("b", True)]
    finish(store, "a", 1002.0)
    assert store.asked_to_cancel("o1") == [("b", True)]
    assert store.ask_to_cancel("unknown", 1001.0) is None


def test_a_job_that_no_worker_has_taken_is_cancelled_at_once(store: Store) -> None:
    store.write([row_of("a", owner=None)])
    asked = store.ask_to_cancel("a", 1001.0)
    assert asked is not None
    assert (asked.status, asked.finished) == ("cancelled", 1001.0)
    assert store.take("a", 1, owner_of("w1"), 1002.0) is None


# -- reading ---------------------------------------------------------------------------------------


def test_pages_are_newest_first_and_filtered(store: Store) -> None:
    store.write(
        [
            row_of("a", user="ann", name="report", executor="own"),
            row_of("b", user="bob", name="mail", labels='{"tenant": "x", "odd \\" key": "1"}'),
            row_of("c", user="ann", name="mail", status="running"),
            row_of("d", user="ann", listed=0),
            row_of("e", user="ann", space="other"),
        ]
    )
    assert ids(store.page(SPACE, Query())) == ["c", "b", "a"]
    assert ids(store.page(SPACE, Query(user="ann"))) == ["c", "a"]
    assert ids(store.page(SPACE, Query(user="ann", name="report"))) == ["a"]
    assert ids(store.page(SPACE, Query(status="running"))) == ["c"]
    assert ids(store.page(SPACE, Query(executor="own"))) == ["a"]
    assert ids(store.page(SPACE, Query(label=("tenant", "x")))) == ["b"]
    assert ids(store.page(SPACE, Query(label=('odd " key', "1")))) == ["b"]
    assert ids(store.page(SPACE, Query(label=("tenant", "y")))) == []
    assert ids(store.page(SPACE, Query(user="nobody"))) == []


def test_pages_have_neither_results_nor_logs(store: Store) -> None:
    store.write([row_of("a", status="running", log_tail="line", result=b"7")])
    (row,) = store.page(SPACE, Query())
    assert (row.log_tail, row.result) == (None, None)
    assert store.get(["a"])["a"].log_tail == "line"


def test_pages_follow_each_other(store: Store) -> None:
    jobs = [f"job-{number}" for number in range(7)]
    for job in jobs:
        store.write([row_of(job, user="ann")])
    for user in (None, "ann"):
        seen: list[str] = []
        while page := store.page(
            SPACE, Query(user=user, limit=3, before=seen[-1] if seen else None)
        ):
            seen += ids(page)
        assert seen == jobs[::-1]
    assert store.page(SPACE, Query(before="unknown")) == []


def test_lists_leave_results_out(store: Store) -> None:
    store.write([row_of("a", result=b"much", key='"k"')])
    assert store.page(SPACE, Query())[0].result is None
    found = store.find(SPACE, '"k"')
    assert found is not None
    assert found.result is None


def test_counts_by_status(store: Store) -> None:
    store.write(
        [
            row_of("a", user="ann"),
            row_of("b", user="ann", status="running"),
            row_of("c", status="running"),
            row_of("d", listed=0),
            row_of("e", space="other"),
        ]
    )
    assert store.counts(SPACE, None) == {"pending": 1, "running": 2}
    assert store.counts(SPACE, "ann") == {"pending": 1, "running": 1}
    assert store.counts(SPACE, "nobody") == {}


def test_pieces_of_a_response_are_its_owners_to_write(store: Store) -> None:
    store.write([row_of("a", kind="view", status="running")])
    assert store.add_piece("a", "o1", 0, b"first")
    assert store.add_piece("a", "o1", 1, b"second")
    assert store.add_piece("a", "o1", 1, b"again")
    assert not store.add_piece("a", "o2", 2, b"not mine")
    assert not store.add_piece("unknown", "o1", 0, b"")
    finish(store, "a", 1001.0)
    assert not store.add_piece("a", "o1", 2, b"late")
    assert [store.piece("a", number) for number in range(3)] == [b"first", b"again", None]


# -- bounds ----------------------------------------------------------------------------------------


def done_rows(store: Store, count: int, **values: object) -> list[str]:
    """Records that finished one second after the other, from 2000 on."""
    rows = [
        row_of(f"job-{number}", status="succeeded", finished=2000.0 + number, **values)
        for number in range(count)
    ]
    assert store.write(rows) == []
    return [row.id for row in rows]


def test_purge_removes_what_finished_long_ago_with_its_key_and_pieces(store: Store) -> None:
    store.claim(row_of("old", key='"k"', status="running"), "error")
    store.add_piece("old", "o1", 0, b"piece")
    finish(store, "old", 1001.0)
    store.write([row_of("open"), row_of("other", space="other", status="failed", finished=1.0)])
    store.write([row_of("part", listed=0, status="succeeded", finished=1.0)])
    store.write([row_of("new", status="succeeded", finished=1003.0)])
    assert store.purge(SPACE, finished_before=1002.0) == 1
    assert store.purge(SPACE, finished_before=1002.0) == 0
    assert set(store.get(["old", "open", "other", "part", "new"])) == {
        *("open", "other", "part", "new")
    }
    assert store.piece("old", 0) is None
    assert store.find(SPACE, '"k"') is None
    assert store.count_keys(SPACE) == 0
    assert store.claim(row_of("next", key='"k"'), "error") is None


def test_purge_leaves_a_key_that_another_job_has_taken(store: Store) -> None:
    store.claim(row_of("old", key='"k"'), "error")
    finish(store, "old", 1001.0)
    store.claim(row_of("new", key='"k"'), "replace")
    assert store.purge(SPACE, finished_before=1002.0) == 1
    assert has_key(store, '"k"') == "new"


def test_purge_keeps_so_many_and_never_removes_what_is_open(store: Store) -> None:
    jobs = done_rows(store, 6)
    store.write([row_of("open")])
    assert store.purge(SPACE, finished_before=LONG_AGO, keep=4) == 2
    assert ids(store.page(SPACE, Query())) == ["open", *jobs[:1:-1]]
    assert store.purge(SPACE, finished_before=LONG_AGO, keep=4) == 0
    assert store.purge(SPACE, finished_before=LONG_AGO, keep=0) == 4
    assert ids(store.page(SPACE, Query())) == ["open"]


def test_purge_drops_the_oldest_results_above_so_many_bytes_and_keeps_the_records(
    store: Store,
) -> None:
    jobs = done_rows(store, 4, result=b"12345", result_size=5, result_state="stored")
    store.write([row_of("none", status="failed", finished=1.0)])
    store.write([row_of("open")])
    assert store.purge(SPACE, finished_before=LONG_AGO, keep_bytes=11) == 2
    assert store.purge(SPACE, finished_before=LONG_AGO, keep_bytes=11) == 0
    rows = [got(store, job) for job in jobs]
    assert [(row.result_state, row.result, row.result_size) for row in rows] == [
        *[("absent", None, 0)] * 2,
        *[("stored", b"12345", 5)] * 2,
    ]
    assert [row.version for row in rows] == [2, 2, 1, 1]


def test_purge_goes_by_steps(store: Store) -> None:
    done_rows(store, 5)
    steps = [store.purge(SPACE, finished_before=9e9, limit=2) for _ in range(4)]
    assert steps == [2, 2, 1, 0]


def test_a_lost_job_that_was_purged_is_not_told(store: Store) -> None:
    store.write([row_of("a")])
    store.bury("o1", "why", 1001.0)
    store.purge(SPACE, finished_before=9e9)
    assert store.untold(SPACE) == []
    assert not store.tell("a")


# -- changes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("open_again", ["memory", "sqlite"], indirect=True)
def test_the_mark_changes_with_what_another_process_does(open_again: Opener, store: Store) -> None:
    other = open_again()
    other.register(owner_of("o2"))

    def changes(step: Callable[[], object]) -> bool:
        before = store.mark()
        assert store.mark() == before
        step()
        return store.mark() != before

    assert changes(lambda: other.write([row_of("a", key='"k"')]))
    assert changes(lambda: other.ask_to_cancel("a", 1001.0))
    assert changes(lambda: other.write([row_of("a", step=2, status="running")]))
    assert changes(lambda: other.bury("o1", "why", 1001.0))


@pytest.mark.parametrize("open_again", ["redis"], indirect=True)
def test_a_listener_hears_what_another_process_does(open_again: Opener, store: Store) -> None:
    other = open_again()
    other.register(owner_of("o2"))
    worker = store.listener(SPACE, "o1")  # what o2 is asked, it does not hear
    submitter, page = other.listener(SPACE, "o2"), other.listener(SPACE, "o2")
    listeners = {worker: Hears.ASKS, submitter: Hears.CHANGES, page: Hears.STARTS}
    for listener, hears in listeners.items():
        assert listener.wait(TIMEOUT, hears) is None  # what was before may matter

    def heard(step: Callable[[], object], *expected: set[str]) -> None:
        """Do a step, and see that each listener hears this, and nothing before."""
        step()
        for (listener, hears), ids in zip(listeners.items(), expected, strict=True):
            found: set[str] = set()
            while not found.issuperset(ids):
                found.update(listener.wait(TIMEOUT, hears) or {})
            assert found == ids

    nothing: set[str] = set()
    heard(lambda: store.write([row_of("a"), row_of("e", owner=None)]), nothing, nothing, nothing)
    running = row_of("a", step=2, status="running")
    heard(lambda: store.write([running]), nothing, {"a"}, {"a"})
    heard(lambda: store.take("e", 1, owner_of("o1"), 1001.0), nothing, nothing, {"e"})
    heard(lambda: other.ask_to_cancel("a", 1001.0), {"o1"}, {"a"}, {"a"})
    store.write([row_of("b", space="other")])
    heard(lambda: store.bury("o1", "why", 1001.0), nothing, {"a", "e"}, {"a", "e"})
    for listener, hears in listeners.items():
        assert listener.wait(0, hears) == {}
    # Who hears more from now on may have missed it, and is told.
    assert worker.wait(TIMEOUT, Hears.STARTS) is None
    heard(lambda: store.ask_to_cancel("b", 1002.0), nothing, nothing, nothing)
    worker.wake()
    assert worker.wait(TIMEOUT, Hears.STARTS) == {}
    for listener in listeners:
        listener.close()


@pytest.mark.parametrize("open_again", ["redis"], indirect=True)
def test_a_listener_hears_the_whole_of_a_record_that_its_owner_has_finished(
    open_again: Opener, store: Store
) -> None:
    listener = open_again().listener(SPACE, "o2")
    assert listener.wait(TIMEOUT, Hears.CHANGES) is None

    store.write([row_of("last")])
    steps = itertools.count(2)

    def heard_of(job_id: str, **values: Any) -> Row | None:
        store.write([row_of(job_id, key=f'"{job_id}"', token=b"message")])
        store.ask_to_cancel(job_id, 1000.5)
        store.write([row_of(job_id, step=2, status="succeeded", finished=1001.0, **values)])
        store.write([row_of("last", step=next(steps))])
        heard: dict[str, bytes] = {}
        while "last" not in heard:
            heard.update(listener.wait(TIMEOUT, Hears.CHANGES) or {})
        return listener.row_of(heard[job_id])

    every_byte = bytes(range(256))
    for number, result in enumerate((b"", b"null", every_byte, "\u20ac/\\".encode())):
        row = heard_of(f"job-{number}", result=result, name="caf\xe9 \U0001f600", started=0.1 + 0.2)
        assert row == got(store, f"job-{number}")
    for record in (b"null", b"{}", b'{"version": []}', b"\xff", b"[", b'{"version": 1}'):
        assert listener.row_of(record) is None  # of another release, say
    assert heard_of("large", result=bytes(5000)) is None  # it is read, by those that wait for it
    listener.close()


def test_another_process_sees_at_once_what_was_written(open_again: Opener, store: Store) -> None:
    other = open_again()
    for number in range(20):
        store.write([row_of(f"job-{number}")])
        assert f"job-{number}" in other.get([f"job-{number}"])
