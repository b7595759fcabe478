"""Which processes are alive: by the kernel on one machine, by their beats elsewhere."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys

import pytest

from flask_executor_typed.stores import owners
from flask_executor_typed.stores.owners import Leases, is_dead, this_process

from .conftest import TIMEOUT, until
from .helpers.stores import owner_of

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells on Linux alone")


def test_a_process_is_another_owner_each_time() -> None:
    one, other = this_process(), this_process()
    assert one.id != other.id
    assert dataclasses.replace(one, id=other.id) == other
    assert one.pid == os.getpid()
    assert one.server.endswith(f":{os.getpid()}")


@on_linux
def test_the_kernel_tells_of_processes_of_this_machine_alone() -> None:
    here = this_process()
    assert is_dead(here, here) is False
    assert is_dead(dataclasses.replace(here, host="another boot pid:[1]"), here) is None
    assert is_dead(dataclasses.replace(here, host=""), dataclasses.replace(here, host="")) is None


@on_linux
def test_a_process_with_an_id_that_was_used_before_is_not_the_one_that_is_asked_for() -> None:
    here = this_process()
    assert is_dead(dataclasses.replace(here, born="1"), here) is True


@on_linux
def test_a_stopped_process_is_alive_and_a_killed_one_is_dead_at_once() -> None:
    here = this_process()
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    stat = owners._stat_of(process.pid)
    assert stat is not None
    other = dataclasses.replace(here, pid=process.pid, born=stat[1])
    assert is_dead(other, here) is False
    process.send_signal(signal.SIGSTOP)
    assert is_dead(other, here) is False
    process.kill()
    until(lambda: is_dead(other, here))  # a zombie: nobody has waited for it yet
    assert owners._stat_of(process.pid) is not None
    process.wait(TIMEOUT)
    assert is_dead(other, here) is True
    assert process.stdin is not None
    process.stdin.close()


@on_linux
def test_a_process_that_proc_hides_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    here = this_process()

    def unreadable(pid: int) -> None:
        assert pid == here.pid

    monkeypatch.setattr(owners, "_stat_of", unreadable)
    assert is_dead(here, here) is False


def test_a_process_that_does_not_beat_for_a_lease_is_overdue() -> None:
    leases = Leases(15.0, 5.0)
    silent, beating = owner_of("silent"), owner_of("beating")
    late: list[list[str]] = []
    for look in range(5):
        beating = dataclasses.replace(beating, beats=look)
        late.append([each.id for each in leases.overdue([silent, beating], 100.0 + 5.01 * look)])
    assert late == [[], [], [], ["silent"], ["silent"]]


def test_a_beat_starts_the_lease_again() -> None:
    leases = Leases(15.0, 5.0)
    owner = owner_of("o")
    for look in range(10):
        owner = dataclasses.replace(owner, beats=look // 3)
        assert leases.overdue([owner], 5.01 * look) == []


def test_an_observer_that_was_stopped_itself_accuses_nobody() -> None:
    leases = Leases(15.0, 5.0)
    owner = owner_of("o")
    assert leases.overdue([owner], 0.0) == []
    assert leases.overdue([owner], 3600.0) == []  # both may have been stopped
    assert leases.overdue([dataclasses.replace(owner, beats=1)], 3605.0) == []
