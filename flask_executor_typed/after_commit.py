"""Hold calls until a SQLAlchemy session commits.

The only module that imports SQLAlchemy.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any, Protocol

from .calls import HeldCall, Hold, Until
from .runtime.exit import unless_ending

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, SessionTransaction

__all__ = (
    "SessionLike",
    "until_commit",
)

_KEY = "flask_executor_typed.after_commit"


class SessionLike(Protocol):
    """A SQLAlchemy session as type checkers see it, as SQLAlchemy may not be installed."""

    def commit(self) -> None: ...
    def rollback(self) -> None: ...


def until_commit(session: object) -> Until:
    """Hold calls until the outermost transaction of a session is committed.

    Raises:
        TypeError: ``session`` is not a ``Session`` or ``scoped_session`` of SQLAlchemy.
    """
    kinds: tuple[type, ...] = ()
    with contextlib.suppress(ImportError):  # then it cannot be a session
        from sqlalchemy.orm import Session, scoped_session

        kinds = (Session, scoped_session)
    if not isinstance(session, kinds):
        raise _not_a_session(session)
    return functools.partial(_hold_by, session)


def _not_a_session(session: object) -> TypeError:
    return TypeError(
        f"after_commit() got {session!r} ({type(session).__name__}): expected a Session or a "
        "scoped_session of SQLAlchemy, such as db.session; of an AsyncSession, its sync_session"
    )


def _hold_by(session: Any) -> Hold:
    from sqlalchemy import event
    from sqlalchemy.orm import Session

    plain = session if isinstance(session, Session) else session()
    if not isinstance(plain, Session):
        raise _not_a_session(session)
    calls = plain.info.get(_KEY)
    if calls is None:
        calls = plain.info[_KEY] = _CallsOfSession()
        event.listen(plain, "after_commit", calls.after_commit)
        event.listen(plain, "after_transaction_end", calls.after_transaction_end)
    transaction = plain.get_nested_transaction() or plain.get_transaction()
    return functools.partial(calls.hold, transaction=transaction)


class _CallsOfSession:
    """The calls that wait for a session's commit. The session keeps this object in its ``info``."""

    def __init__(self) -> None:
        # Each with the transaction or SAVEPOINT that it depends on; None if there was none yet,
        # which stands for the outermost.
        self._held: list[tuple[SessionTransaction | None, HeldCall]] = []

    def hold(self, call: HeldCall, transaction: SessionTransaction | None) -> None:
        self._held.append((transaction, call))

    def after_commit(self, session: Session) -> None:
        savepoint = session.get_nested_transaction()
        held, self._held = self._held, []
        if savepoint is None:
            try:
                for _, call in held:
                    call.submit()
            except BaseException:  # of a signal handler: the commit stands all the same
                for _, call in held:
                    call.submit()  # once more does no harm to one that has begun
                raise
        else:  # a SAVEPOINT was released: its calls now depend on the one around it
            around = _around(savepoint)
            self._held = [(around if on is savepoint else on, call) for on, call in held]

    def after_transaction_end(self, session: Session, transaction: SessionTransaction) -> None:
        # A commit has already taken its calls. So those left were rolled back or closed.
        outermost = transaction.parent is None
        held, self._held = self._held, []
        for on, call in held:
            if outermost or on is transaction:
                call.drop()
            else:
                self._held.append((on, call))

    @unless_ending
    def __del__(self) -> None:
        for _, call in self._held:  # the session is gone and was never committed
            call.drop()


def _around(savepoint: SessionTransaction) -> SessionTransaction | None:
    """Return the SAVEPOINT or outermost transaction that contains a SAVEPOINT."""
    around = savepoint.parent
    while around is not None and not around.nested and around.parent is not None:
        around = around.parent  # skips the subtransactions of SQLAlchemy 1.4
    return around
