"""Sign the data of a job, and check it before it is unpickled.

The only module that unpickles what another process may have written to a store or a broker.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Sequence
from typing import Any

from itsdangerous import Signer

from .errors import SignatureError

__all__ = ("JobSigner",)


class JobSigner:
    """Signs and checks data of jobs. Every method may be called from any thread.

    A signature covers the job's id and the kind of data. So neither another job's result nor
    another kind of data is accepted as this job's result.

    Args:
        keys: The first key signs; data signed with any of them is accepted.
    """

    def __init__(self, keys: Sequence[str | bytes]) -> None:
        self._keys = list(reversed(keys))  # itsdangerous signs with the last

    def sign(self, content: bytes, *, kind: str, job_id: str) -> bytes:
        signature: bytes = self._signer(kind).get_signature(_bound(content, job_id))
        return signature + b"." + content

    def open(self, signed: bytes, *, kind: str, job_id: str) -> bytes:
        """Check a signature and return the content that :meth:`sign` was given.

        Raises:
            SignatureError: the content was changed, or signed with an unknown key, for another job
                or as another kind of data.
        """
        signature, _, content = signed.partition(b".")
        if not self._signer(kind).verify_signature(_bound(content, job_id), signature):
            raise SignatureError(kind, job_id)
        return content

    def dumps(self, value: object, *, kind: str, job_id: str) -> bytes:
        """Pickle and sign a value. Raises pickle's own errors."""
        return self.sign(pickle.dumps(value, pickle.HIGHEST_PROTOCOL), kind=kind, job_id=job_id)

    def loads(self, signed: bytes, *, kind: str, job_id: str) -> Any:
        """Check and unpickle a value. Raises ``SignatureError``, like :meth:`open`."""
        return pickle.loads(self.open(signed, kind=kind, job_id=job_id))  # noqa: S301  # signed

    def _signer(self, kind: str) -> Signer:
        keys: Any = self._keys  # str and bytes may be mixed, despite Signer's annotation
        return Signer(keys, salt=f"flask_executor_typed.{kind}", digest_method=hashlib.sha256)


def _bound(content: bytes, job_id: str) -> bytes:
    return b"\0".join((job_id.encode(), content))  # an id has no NUL, so there is one way to split
