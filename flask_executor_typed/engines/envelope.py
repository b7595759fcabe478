"""Sign the message of a job, and read it in a worker."""

from __future__ import annotations

import base64
from typing import NamedTuple

from ..backends.pickling import Work
from ..calls import Limits
from ..errors import SignatureError, UnpicklableError
from ..signing import JobSigner

__all__ = ("Envelope", "as_text", "open_envelope", "seal")

_KIND = "message"
_VERSION = 1
"""Of what is signed. A worker of another release does not guess what it means."""


class Envelope(NamedTuple):
    """What a message says once its signature is checked."""

    work: Work
    limits: Limits
    release: str | None
    """That of the process that has submitted the call."""


def seal(signer: JobSigner, work: Work, limits: Limits, release: str | None) -> bytes:
    """Pickle and sign a call.

    Raises:
        UnpicklableError: ``backoff`` is a function that no module has.
    """
    plain = (limits.timeout, limits.retries, limits.backoff)
    try:
        return signer.dumps((_VERSION, tuple(work), plain, release), kind=_KIND, job_id=work.id)
    except Exception as error:  # all the rest is pickled already
        raise UnpicklableError(work.name, "its backoff", str(error)) from error


def as_text(sealed: bytes) -> str:
    return base64.b64encode(sealed).decode()


def open_envelope(signer: JobSigner, token: str, *, job_id: str, name: str) -> Envelope:
    """Check a signature, and unpickle what it signs. The function is not unpickled yet.

    Raises:
        SignatureError: the token was changed, or belongs to another job, or has another key.
        UnpicklableError: another release has sealed it.
    """
    try:
        sealed = base64.b64decode(token, validate=True)
    except ValueError:
        raise SignatureError(_KIND, job_id) from None
    version, *parts = signer.loads(sealed, kind=_KIND, job_id=job_id)
    if version != _VERSION:
        reason = f"it has version {version}, and this worker reads version {_VERSION}"
        raise UnpicklableError(name, "its message", reason)
    work, (timeout, retries, backoff), release = parts
    limits = Limits(timeout=timeout, retries=retries, backoff=backoff)
    return Envelope(Work(*work), limits, release)
