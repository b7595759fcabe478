"""The interpreter's exit and fork: accepted calls are done, and both processes work on.

Each test runs a script of its own in another interpreter. The scripts begin with ``PRELUDE``.
"""

from __future__ import annotations

import re
import threading
import time
import weakref
from contextvars import ContextVar
from pathlib import Path
from queue import SimpleQueue
from textwrap import dedent

import pytest

from flask_executor_typed.runtime import threads

from .conftest import TIMEOUT, until
from .helpers.scripts import IN_THE_CHILD, PRELUDE, Ended, has_fork, run_python, run_script

# The interpreter's exit


@pytest.mark.parametrize("kind", ["double", "double_async", "lambda i: double_async(i)"])
def test_calls_that_are_queued_when_the_interpreter_exits_are_done(kind: str) -> None:
    ended = run_script(f"""
        import atexit
        done = []
        executor.add_default_done_callback(lambda future: done.append(future.result()))
        # The interpreter calls atexit functions when the threads have ended.
        atexit.register(lambda: print(sorted(done) == [i * 2 for i in range(200)]))
        executor.submit(time.sleep, 0.2).add_done_callback(lambda future: done.remove(None))
        for i in range(200):
            executor.submit({kind}, i)
    """)
    assert ended == Ended(0, "True\n", "")


@pytest.mark.parametrize("kind", ["double", "double_async", "lambda i: double_async(i)"])
def test_call_submitted_just_before_the_interpreter_exits_is_done(kind: str) -> None:
    script = f"""
        future = executor.submit({kind}, 21)
        future.add_done_callback(lambda future: print(future.result()))
    """
    for _ in range(3):
        assert run_script(script) == Ended(0, "42\n", "")


def test_jobs_use_every_kind_of_thread_and_bridge_while_the_interpreter_exits() -> None:
    ended = run_script("""
        from asgiref.sync import async_to_sync, sync_to_async

        async def sync_inside(i):
            return await sync_to_async(double)(i)

        async def to_thread(i):
            return await asyncio.to_thread(double, i)

        def async_inside(i):
            return async_to_sync(double_async)(i)

        # Each job uses its thread once before the exit: Python 3.12 starts none during it.
        async def before_and_after(fn, i):
            await fn(i)
            ready.release()
            await sync_to_async(until_the_exit_has_begun)()
            return await fn(i)

        def sync_before_and_after(fn, i):
            fn(i)
            ready.release()
            until_the_exit_has_begun()
            return fn(i)

        ready = threading.Semaphore(0)
        futures = [executor.submit(before_and_after, fn, 21) for fn in (sync_inside, to_thread)]
        futures += [executor.submit(sync_before_and_after, async_inside, 21)]
        for future in futures:
            future.add_done_callback(lambda future: print(future.result()))
            ready.acquire(timeout=10)
    """)
    assert ended == Ended(0, "42\n" * 3, "")


def test_submitting_while_the_interpreter_exits_is_a_clear_error() -> None:
    ended = run_script("""
        def submit_late():
            until_the_exit_has_begun()
            for kind in (double, double_async):
                try:
                    executor.submit(kind, 1)
                except ExecutorClosedError as error:
                    print(error)

        executor.submit(submit_late)
    """)
    text = (
        "cannot submit to executor while the interpreter exits; "
        "only what was accepted before is done"
    )
    assert ended == Ended(0, f"{text}\n{text}\n", "")


@pytest.mark.parametrize("kind", ["thread", "sync"])
@pytest.mark.parametrize("used", [True, False], ids=["used", "unused"])
def test_submitting_after_the_main_thread_is_refused_whether_or_not_a_worker_had_started(
    kind: str, used: bool
) -> None:
    ended = run_script(f"""
        from flask_executor_typed.runtime.threads import threads_are_refused

        app.config["EXECUTOR_TYPE"] = {kind!r}
        executor = Executor(app)
        if {used}:
            executor.submit(double, 1).result()

        def submit_late():
            while not threads_are_refused():
                time.sleep(0.001)
            for kind in (double, double_async):
                try:
                    print(executor.submit(kind, 1).result())
                except ExecutorClosedError as error:
                    print(error)

        threading.Thread(target=submit_late).start()
    """)
    text = (
        "cannot submit to executor while the interpreter exits; "
        "only what was accepted before is done"
    )
    assert ended == Ended(0, f"{text}\n{text}\n", "")


def test_executor_first_used_while_the_interpreter_exits_refuses_or_does_the_call() -> None:
    ended = run_script("""
        other = Executor(app, name="other")

        def use_the_other():
            until_the_exit_has_begun()
            try:
                future = other.submit(lambda: time.sleep(0.2))
            except ExecutorClosedError:
                print("done")
            else:
                future.add_done_callback(lambda future: print("done"))

        executor.submit(use_the_other)
    """)
    assert ended == Ended(0, "done\n", "")


def test_exit_closes_executors_that_other_threads_are_making_just_then() -> None:
    ended = run_script("""
        def make_more():
            while True:
                more = Executor(Flask("more"))
                try:
                    more.submit(double, 1).result()
                    more.submit(double_async, 1).result()
                except RuntimeError:
                    return
                more.shutdown()

        for _ in range(3):
            threading.Thread(target=make_more, daemon=True).start()
        executor.submit(time.sleep, 0.3).add_done_callback(lambda future: print("done"))
        time.sleep(0.1)
    """)
    assert ended == Ended(0, "done\n", "")


def test_exit_without_any_call_is_quiet() -> None:
    assert run_script("print(executor)") == Ended(0, "<Executor 'executor' of script>\n", "")


def test_exit_status_of_the_main_thread_is_kept() -> None:
    ended = run_script("""
        executor.submit(time.sleep, 0.1).add_done_callback(lambda future: print("done"))
        sys.exit(7)
    """)
    assert ended == Ended(7, "done\n", "")


def test_exit_after_an_error_in_the_main_thread_does_what_was_accepted() -> None:
    ended = run_script("""
        executor.submit(time.sleep, 0.1).add_done_callback(lambda future: print("done"))
        raise LookupError("main thread")
    """)
    assert (ended.status, ended.stdout) == (1, "done\n")
    assert ended.stderr.endswith("LookupError: main thread\n")


def test_garbage_collection_may_end_an_executor_whose_thread_holds_its_lock() -> None:
    ended = run_script("""
        import gc, flask_executor_typed

        package = os.path.dirname(flask_executor_typed.__file__)

        def trace(frame, event, argument):
            if not frame.f_code.co_filename.startswith(package):
                return None
            owner = frame.f_locals.get("self")
            locks = (getattr(owner, name, None) for name in ("_lock", "_in_workers"))
            if event == "line" and any(repr(lock).startswith("<locked") for lock in locks):
                gc.collect()
            return trace

        threading.settrace(trace)
        for kind in (double, double_async):
            for shuts_down in (True, False):
                begun, release = threading.Event(), threading.Event()

                def wait():
                    begun.set()
                    release.wait(10)

                own_app = Flask("own")
                own_app.me = own_app  # only the garbage collector can free it
                own = Executor(own_app)
                gc.collect()
                gc.disable()
                own.submit(wait)
                own.submit(kind, 1)
                begun.wait(10)
                if shuts_down:
                    own.shutdown(wait=False)
                del own, own_app
                release.set()
                for thread in threading.enumerate():
                    if thread.name.startswith("executor-"):
                        thread.join(0.5)
                        gc.collect()  # nothing above freed the app, perhaps: then it is now
                        thread.join(10)
                        assert not thread.is_alive(), (thread, kind, shuts_down)
        print("ended")
    """)
    assert ended == Ended(0, "ended\n", "")


def test_executor_that_is_made_while_the_exit_looks_at_all_of_them_comes_after_them() -> None:
    ended = run_script("""
        from weakref import WeakKeyDictionary

        from flask_executor_typed.runtime import exit as exits

        looks, looked = threading.Event(), threading.Event()

        class Watched(WeakKeyDictionary):
            def items(self):
                for each in super().items():
                    looks.set()
                    adding.join(0.5)  # too long for it to be over in time, if it waits as it should
                    yield each
                looked.set()

        class Late:
            def close(self, *, cancel_pending):
                print("closed")

            def wait(self, end):
                return True

        late = Late()

        def add():
            looks.wait(10)
            exits.close_at_exit(late, exits.AtExit())
            added.set()

        added = threading.Event()
        adding = threading.Thread(target=add, daemon=True)
        adding.start()
        executor.submit(looked.wait, 10).add_done_callback(lambda f: print("done", f.result()))
        executor.submit(added.wait, 10)
        exits._closables = Watched(exits._closables)
    """)
    assert (ended.status, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[0] == "done True"


# The interpreter's exit with a time limit

WITH_LIMIT = """
app.config["EXECUTOR_SHUTDOWN_TIMEOUT"] = 0.5
executor.init_app(app)
begun = threading.Semaphore(0)


def block():
    begun.release()
    time.sleep(3600)


async def endless():
    begun.release()
    try:
        while True:
            await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0.05)
        print("cleaned up")


async def blocks_its_loop():
    block()


async def blocks_by_asyncio():
    await asyncio.to_thread(block)


async def blocks_by_asgiref():
    from asgiref.sync import sync_to_async

    await sync_to_async(block)()


async def never_ends():
    begun.release()
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass


def until_begun(calls=1):
    for _ in range(calls):
        assert begun.acquire(timeout=10)

"""


def abandoned(ended: Ended) -> list[str]:
    """The names of the calls that the log calls abandoned, once for each time."""
    return sorted(re.findall(r"Background job (\S+) \[[-\w]{22}\] is abandoned", ended.stderr))


def test_exit_cancels_an_endless_coroutine_when_time_is_up() -> None:
    begun = time.monotonic()
    ended = run_script(
        WITH_LIMIT
        + dedent("""
        executor.submit(endless)
        executor.submit(time.sleep, 0.1).add_done_callback(lambda future: print(future.status))
        until_begun()
        """)
    )
    assert time.monotonic() - begun < TIMEOUT
    assert (ended.status, ended.stdout) == (0, "succeeded\ncleaned up\n")
    assert abandoned(ended) == ["endless"]
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    "kind", ["block", "blocks_its_loop", "blocks_by_asyncio", "blocks_by_asgiref", "never_ends"]
)
def test_exit_never_hangs_on_a_call_that_never_ends(kind: str) -> None:
    ended = run_script(
        WITH_LIMIT
        + dedent(f"""
        app.config["EXECUTOR_MAX_WORKERS"] = 1
        executor.init_app(app)
        future = executor.submit({kind})
        until_begun()
        waits = executor.submit(lambda: print("heard", type(future.exception()).__name__))
        if {kind == "block"}:  # which has the only worker
            waits.add_done_callback(lambda waits: print("heard", type(waits.exception()).__name__))
        sys.exit(7)
        """)
    )
    assert (ended.status, ended.stdout) == (7, "heard JobAbandonedError\n"), ended.stderr
    assert abandoned(ended) == ["<lambda>", kind]
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("cancels", "kind", "status"),
    [
        (True, "double", "cancelled"),
        (False, "double", "succeeded"),
        (False, "double_async", "succeeded"),  # and of these, the loop may have begun some
    ],
)
def test_pending_calls_are_run_or_cancelled_at_exit_as_the_setting_says(
    cancels: bool, kind: str, status: str
) -> None:
    ended = run_script(f"""
        app.config["EXECUTOR_MAX_WORKERS"] = 1
        app.config["EXECUTOR_CANCEL_PENDING_AT_EXIT"] = {cancels}
        executor.init_app(app)
        begun = threading.Event()

        def run():
            begun.set()
            until_the_exit_has_begun()
            return "run"

        executor.submit(run).add_done_callback(lambda future: print(future.result()))
        begun.wait(10)
        for number in range(100):
            executor.submit({kind}, number).add_done_callback(lambda f: told.append(f.status))
        told = []
        import atexit
        atexit.register(lambda: print(len(told), *set(told)))
    """)
    assert ended == Ended(0, f"run\n100 {status}\n", "")


def test_exit_with_a_time_limit_waits_no_longer_than_calls_take() -> None:
    ended = run_script("""
        app.config["EXECUTOR_SHUTDOWN_TIMEOUT"] = 3600
        executor.init_app(app)
        executor.submit(time.sleep, 0.2).add_done_callback(lambda future: print(future.status))
        executor.submit(asyncio.sleep, 0).add_done_callback(lambda future: print(future.status))
    """)
    assert ended == Ended(0, "succeeded\nsucceeded\n", "")


def test_exit_waits_for_calls_without_a_limit_although_those_of_another_executor_have_one() -> None:
    ended = run_script(
        WITH_LIMIT
        + dedent("""
        patient_app = Flask("patient")
        patient = Executor(patient_app)
        patient.submit(time.sleep, 1).add_done_callback(lambda future: print(future.status))
        executor.submit(block)
        until_begun()
        """)
    )
    assert (ended.status, ended.stdout, abandoned(ended)) == (0, "succeeded\n", ["block"])


def test_time_limit_that_shutdown_got_holds_although_the_interpreter_exits_meanwhile() -> None:
    ended = run_script(
        WITH_LIMIT
        + dedent("""
        app.config["EXECUTOR_SHUTDOWN_TIMEOUT"] = None
        executor.init_app(app)
        executor.submit(block)
        until_begun()
        executor.shutdown(wait=False, timeout=0.5)
        """)
    )
    assert (ended.status, abandoned(ended)) == (0, ["block"])


# Fork


@has_fork
def test_executor_that_was_used_works_in_parent_and_child_of_a_fork() -> None:
    ended = run_script(
        IN_THE_CHILD
        + dedent("""
        check("before")
        fork_and_check()
        """)
    )
    assert ended == Ended(0, "before\nchild\nparent\n", "")


@has_fork
def test_executor_that_is_busy_works_in_parent_and_child_of_a_fork() -> None:
    ended = run_script(
        IN_THE_CHILD
        + dedent("""
        from concurrent.futures import wait

        stop = threading.Event()
        release = threading.Event()

        def keep_busy():
            number = 0
            while not stop.is_set():
                number += 1
                for kind in (double, double_async):
                    future = executor.using(key=number % 20, on_duplicate="replace").submit(kind, 1)
                    future.id
                    wait([future])

        held = [executor.submit(release.wait, 20) for _ in range(3)]
        held += [executor.submit(asyncio.sleep, 0.5) for _ in range(100)]
        threads = [threading.Thread(target=keep_busy) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(10):
            fork_and_check()
        stop.set()
        release.set()
        for thread in threads:
            thread.join()
        assert [future.exception(8) for future in held] == [None] * 103
        """)
    )
    assert ended == Ended(0, "child\nparent\n" * 10, "")


@has_fork
def test_fork_while_another_thread_looks_up_a_future_leaves_the_futures_usable() -> None:
    ended = run_script(
        IN_THE_CHILD
        + dedent("""
        class SlowKey:
            def __hash__(self):
                return 1

            def __eq__(self, other):
                comparing.set()
                return release.wait(20)

        comparing, release = threading.Event(), threading.Event()
        executor.submit_stored(SlowKey(), double, 1)
        threading.Thread(target=executor.futures.get, args=(SlowKey(),)).start()
        comparing.wait(8)
        pid = os.fork()
        if pid == 0:
            in_child()
        status = os.waitpid(pid, 0)[1]
        release.set()
        assert status == 0, f"the child ended with {status}"
        check("parent")
        """)
    )
    assert ended == Ended(0, "child\nparent\n", "")


@has_fork
def test_job_can_fork() -> None:
    ended = run_script(
        IN_THE_CHILD
        + dedent("""
        executor.submit(fork_and_check).result(20)

        async def fork_on_the_loop():
            pid = os.fork()
            if pid == 0:
                in_child()
            return os.waitpid(pid, 0)[1]

        assert executor.submit(fork_on_the_loop).result(20) == 0
        check("again")
        """)
    )
    assert ended == Ended(0, "child\nparent\nchild\nagain\n", "")


@has_fork
def test_child_that_exits_in_the_usual_way_does_what_it_accepted() -> None:
    ended = run_script(
        IN_THE_CHILD
        + dedent("""
        release = threading.Event()
        held = executor.submit(release.wait, 20)
        held_async = executor.submit(asyncio.sleep, 0.5)
        pid = os.fork()
        if pid == 0:
            time_out(8)
            for kind in (double, double_async):
                executor.submit(kind, 21).add_done_callback(lambda f: print("child", f.result()))
        else:
            assert os.waitpid(pid, 0)[1] == 0
            release.set()
            assert held.result(8) is True
            assert held_async.result(8) is None
        """)
    )
    assert ended == Ended(0, "child 42\nchild 42\n", "")


@has_fork
def test_grandchild_works_as_well() -> None:
    ended = run_script(
        IN_THE_CHILD
        + dedent("""
        check("grandparent")
        pid = os.fork()
        if pid == 0:
            time_out(8)
            fork_and_check()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        check("grandparent")
        """)
    )
    assert ended == Ended(0, "grandparent\nchild\nparent\ngrandparent\n", "")


@has_fork
def test_settings_of_the_parent_hold_in_the_child() -> None:
    ended = run_script(
        IN_THE_CHILD
        + dedent("""
        check("before")
        pid = os.fork()
        if pid == 0:
            time_out(8)
            meeting = threading.Barrier(4)
            futures = [executor.submit(meeting.wait, 8) for _ in range(4)]
            print(sorted(future.result(8) for future in futures), flush=True)
            print(len([t for t in threading.enumerate() if "worker" in t.name]), flush=True)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        """)
    )
    assert ended == Ended(0, "before\n[0, 1, 2, 3]\n4\n", "")


@has_fork
def test_executor_that_was_shut_down_is_so_in_the_child() -> None:
    ended = run_script(
        IN_THE_CHILD
        + dedent("""
        check("before")
        executor.shutdown()
        pid = os.fork()
        if pid == 0:
            time_out(8)
            try:
                executor.submit(double, 1)
            except ExecutorClosedError:
                executor.init_app(app)
                in_child()
        assert os.waitpid(pid, 0)[1] == 0
        """)
    )
    assert ended == Ended(0, "before\nchild\n", "")


@has_fork
def test_multiprocessing_by_fork_works_after_use(tmp_path: Path) -> None:
    script = tmp_path / "script.py"  # multiprocessing wants a module that can be found again
    script.write_text(
        PRELUDE
        + IN_THE_CHILD
        + dedent("""
        import multiprocessing

        def child(queue):
            time_out(8)
            queue.put([executor.submit(kind, 21).result(8) for kind in (double, double_async)])

        if __name__ == "__main__":
            check("before")
            context = multiprocessing.get_context("fork")
            queue = context.Queue()
            processes = [context.Process(target=child, args=(queue,)) for _ in range(3)]
            for process in processes:
                process.start()
            print([queue.get(timeout=8) for _ in processes], flush=True)
            for process in processes:
                process.join(8)
            print([process.exitcode for process in processes], flush=True)
            with context.Pool(2) as pool:
                print(pool.map(double, [1, 2]), flush=True)
            check("after")
        """)
    )
    assert run_python(str(script)) == Ended(
        0, "before\n[[42, 42], [42, 42], [42, 42]]\n[0, 0, 0]\n[2, 4]\nafter\n", ""
    )


@has_fork
@pytest.mark.parametrize(
    "lock",
    ["exits._lock", "executor._states[app]._lock", "executor._states[app].opened._pool._lock"],
)
@pytest.mark.parametrize("in_the_usual_way", [True, False], ids=["exit", "_exit"])
def test_fork_while_another_thread_holds_a_lock_leaves_the_child_its_own(
    lock: str, in_the_usual_way: bool
) -> None:
    ended = run_script(
        IN_THE_CHILD
        + dedent(f"""
        from flask_executor_typed.runtime import exit as exits

        held, release = threading.Event(), threading.Event()

        def hold():
            with {lock}:
                held.set()
                release.wait(20)

        check("before")
        backend = executor._states[app].opened  # as it is while somebody submits
        holder = threading.Thread(target=hold)
        holder.start()
        held.wait(8)
        pid = os.fork()
        if pid == 0:
            if not {in_the_usual_way}:
                in_child()
            time_out(8)
            check("child")
        else:
            status = os.waitpid(pid, 0)[1]
            release.set()
            holder.join(8)
            assert status == 0, f"the child ended with {{status}}"
            check("parent")
        """)
    )
    assert ended == Ended(0, "before\nchild\nparent\n", "")


@has_fork
def test_child_that_a_job_forks_ends_in_the_usual_way_of_multiprocessing() -> None:
    ended = run_script(
        IN_THE_CHILD
        + dedent("""
        import multiprocessing

        def child():
            time_out(8)
            # The worker's thread is the main thread here, and must not wait for itself to end.
            check("child")
            executor.submit(double, 21).add_done_callback(lambda f: print("exit", f.result()))

        def run_a_process():
            process = multiprocessing.get_context("fork").Process(target=child)
            process.start()
            process.join(20)
            return process.exitcode

        print("ended with", executor.submit(run_a_process).result(25))
        """)
    )
    assert ended == Ended(0, "child\nexit 42\nended with 0\n", "")


def test_call_that_a_pool_of_daemons_refused_for_lack_of_threads_never_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_more_threads(name: str, target: object, among: object) -> None:
        raise RuntimeError("can't start new thread")

    ran: list[str] = []
    pool = threads.DaemonPool("pool", 1)
    with monkeypatch.context() as patch:
        patch.setattr(threads, "start_thread", no_more_threads)
        with pytest.raises(RuntimeError, match="can't start new"):
            pool.submit(ran.append, "refused")
    pool.submit(ran.append, "accepted").result(TIMEOUT)
    pool.shutdown()
    assert ran == ["accepted"]


def is_in(pool: threads.DaemonPool) -> bool:
    return threading.current_thread() in pool.threads()


def test_what_a_pool_of_daemons_runs_finds_its_thread_in_the_pool() -> None:
    """A callback that shuts down must not wait for its own thread."""
    for _ in range(300):
        pool = threads.DaemonPool("pool", 1)
        assert pool.submit(is_in, pool).result(TIMEOUT)
        pool.shutdown()


def test_thread_that_did_not_start_is_waited_for_by_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_more_threads(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads.DaemonThread, "start", no_more_threads)
    among: list[threading.Thread] = []
    with pytest.raises(RuntimeError, match="can't start new"):
        threads.start_thread("thread", list, among)
    assert among == []


# -- spare threads ---------------------------------------------------------------------------------


def threads_called(name: str) -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == name]


def test_a_spare_thread_runs_one_call_after_the_other_and_ends_when_closed() -> None:
    spare, where = threads.SpareThreads("spare"), SimpleQueue[threading.Thread]()
    used: set[threading.Thread] = set()
    for _ in range(20):
        spare.run(lambda: where.put(threading.current_thread()))
        used.add(where.get(timeout=TIMEOUT))
        until(lambda: spare._idle._value == 1, TIMEOUT)
    assert set(threads_called("spare")) == used
    assert len(used) == 1
    spare.close()
    until(lambda: not threads_called("spare"), TIMEOUT)


def test_a_spare_thread_keeps_nothing_of_what_it_has_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_SPARE", TIMEOUT)

    class Call:
        def __call__(self) -> None:
            seen.append(variable.get())
            variable.set("changed")

    seen, variable = list[str](), ContextVar("variable", default="empty")
    spare, left = threads.SpareThreads("forgetful"), weakref.WeakSet[Call]()
    for _ in range(3):
        call = Call()
        left.add(call)
        spare.run(call)
        del call
        until(lambda: spare._idle._value == 1 and not left, TIMEOUT)
    assert len(threads_called("forgetful")) == 1
    assert seen == ["empty"] * 3
    spare.close()


def test_a_spare_thread_that_is_blocked_holds_up_no_other_call() -> None:
    spare, all_run = threads.SpareThreads("blocked"), threading.Barrier(4)

    def wait_for_the_others() -> None:
        all_run.wait(TIMEOUT)

    for _ in range(25):
        for _ in range(3):
            spare.run(wait_for_the_others)
        wait_for_the_others()
    spare.close()  # also those that are not idle yet
    until(lambda: not threads_called("blocked"), TIMEOUT)


def test_a_spare_thread_ends_by_itself_and_loses_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_SPARE", 0.0005)  # they end all the time
    spare, done = threads.SpareThreads("short-lived"), threading.Semaphore(0)
    for _ in range(2000):
        spare.run(done.release)
        assert done.acquire(timeout=TIMEOUT)
    until(lambda: not threads_called("short-lived"), TIMEOUT)
