"""Signed data of jobs: what is accepted, and that nothing else is unpickled."""

from __future__ import annotations

import pickle

import pytest

from flask_executor_typed.errors import SignatureError
from flask_executor_typed.signing import JobSigner


class Bomb:
    """Raises when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return pytest.fail, ("unpickled",)


def test_a_value_comes_back_as_it_was() -> None:
    signer = JobSigner(["key"])
    signed = signer.dumps({"rows": (1, 2)}, kind="result", job_id="a")
    assert signer.loads(signed, kind="result", job_id="a") == {"rows": (1, 2)}


def test_content_may_have_any_bytes_in_it() -> None:
    signer = JobSigner([b"\0key"])
    content = bytes(range(256)) + b".."
    assert signer.open(signer.sign(content, kind="k", job_id="a"), kind="k", job_id="a") == content


@pytest.mark.parametrize(
    ("keys", "kind", "job_id"),
    [
        (["other"], "result", "a"),
        (["key"], "error", "a"),
        (["key"], "result", "b"),
    ],
)
def test_data_of_another_key_kind_or_job_is_refused_before_it_is_unpickled(
    keys: list[str], kind: str, job_id: str
) -> None:
    signed = JobSigner(["key"]).sign(pickle.dumps(Bomb()), kind="result", job_id="a")
    with pytest.raises(SignatureError) as caught:
        JobSigner(keys).loads(signed, kind=kind, job_id=job_id)
    assert (caught.value.kind, caught.value.job_id) == (kind, job_id)


@pytest.mark.parametrize("position", [0, -1])
def test_changed_data_is_refused(position: int) -> None:
    signer = JobSigner(["key"])
    signed = bytearray(signer.sign(pickle.dumps(Bomb()), kind="result", job_id="a"))
    signed[position] ^= 1
    with pytest.raises(SignatureError):
        signer.loads(bytes(signed), kind="result", job_id="a")


@pytest.mark.parametrize("unsigned", [b"", b".", b"no dot", pickle.dumps(1)])
def test_data_without_a_signature_is_refused(unsigned: bytes) -> None:
    with pytest.raises(SignatureError):
        JobSigner(["key"]).loads(unsigned, kind="result", job_id="a")


def test_the_first_key_signs_and_older_ones_are_still_read() -> None:
    old, new, both = JobSigner(["old"]), JobSigner(["new"]), JobSigner(["new", "old"])
    assert both.open(old.sign(b"1", kind="k", job_id="a"), kind="k", job_id="a") == b"1"
    assert new.open(both.sign(b"2", kind="k", job_id="a"), kind="k", job_id="a") == b"2"
