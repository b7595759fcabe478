"""``EXECUTOR_STORE``: which store it opens, and what is refused, without a password."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from flask_executor_typed.config import without_password
from flask_executor_typed.errors import ConfigError
from flask_executor_typed.stores import open_store

KEY = "EXECUTOR_STORE"


def refused(url: str, folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        open_store(KEY, url, instance_path=str(folder))
    assert caught.value.key == KEY
    return str(caught.value)


def test_a_relative_file_is_in_the_instance_folder_which_is_created(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "instance"
    store, space = open_store(KEY, "sqlite:///jobs.db", instance_path=str(folder))
    assert (store.url, space) == (f"sqlite:///{folder}/jobs.db", None)
    assert list(folder.iterdir()) == []  # nothing is opened yet
    store.beat("nobody")
    store.close()
    assert (folder / "jobs.db").exists()


def test_an_absolute_file_is_where_it_says_and_no_instance_folder_is_made(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db?space=two%20apps"
    store, space = open_store(KEY, url, instance_path=str(tmp_path / "instance"))
    assert (store.url, space) == (f"sqlite:///{tmp_path}/jobs.db", "two apps")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
def test_only_the_user_of_the_process_may_read_the_files(tmp_path: Path) -> None:
    store, _ = open_store(KEY, "sqlite:///jobs.db", instance_path=str(tmp_path))
    store.beat("nobody")
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()}
    store.close()
    assert modes == dict.fromkeys(("jobs.db", "jobs.db-wal", "jobs.db-shm"), 0o600)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite://", "a file, since processes do not share memory"),
        ("sqlite:///", "a file, since processes do not share memory"),
        ("sqlite:///:memory:", "a file, since processes do not share memory"),
        ("sqlite://jobs.db", "three slashes before the path, or four if that is absolute"),
        ("sqlite:///jobs.db?mode=ro", "no option but '?space=name'"),
        ("sqlite:///jobs.db?space=", "a name after '?space='"),
        ("sqlite:///jobs.db?space", "'sqlite:///jobs.db' (in the instance folder)"),
        ("sqlite:///no/such/folder/jobs.db", "a file in a folder that exists"),
        ("mysql://localhost/jobs", "'sqlite:///jobs.db' (in the instance folder)"),
        ("jobs.db", "'sqlite:///jobs.db' (in the instance folder)"),
        ("", "'sqlite:///jobs.db' (in the instance folder)"),
        ("sqlite://[", "'sqlite:///jobs.db' (in the instance folder)"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_with_what_is_expected(
    url: str, expected: str, tmp_path: Path
) -> None:
    message = refused(url, tmp_path)
    assert f": expected {expected}" in message


def test_a_folder_is_no_store(tmp_path: Path) -> None:
    assert "a file; this is a folder" in refused(f"sqlite:///{tmp_path}", tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "nosql://user:s3cret@host/0",
        "nosql://:s3cret@host",
        "nosql://user:s3cret@x@host:1/0?password=s3cret",
        "nosql://user:s3cret/1@host",
        "nosql://host/0?password=s3cret",
    ],
)
def test_no_error_shows_a_password(url: str, tmp_path: Path) -> None:
    assert "s3cret" not in refused(url, tmp_path)
    assert "s3cret" not in without_password(url)
    assert "host" in without_password(url)
