"""The ``Prefer`` header of a request (RFC 7240), and what was made of it."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ("Preferences",)

_READ = 1000  # characters; no client needs more, and matching them takes no noticeable time
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_PART = re.compile(rf'(?:[^,"]|{_QUOTED}|")+')
_PREFERENCE = re.compile(rf"[ \t]*({_WORD})(?:[ \t]*=[ \t]*({_WORD}|{_QUOTED})?)?[ \t]*(?:;|$)")
_SECONDS = re.compile(r'"?([0-9]{1,6})"?')


@dataclass(frozen=True, slots=True)
class Preferences:
    """How long a client is willing to wait for an answer."""

    respond_async: bool = False
    """It would rather have a 202 at once."""

    wait: int | None = None
    """Seconds; ``None`` if the client says nothing."""

    @classmethod
    def parse(cls, header: str) -> Preferences:
        """Read a header. Of duplicates the first counts, and what cannot be read is ignored."""
        found: dict[str, str] = {}
        for part in _PART.findall(header[:_READ]):
            if match := _PREFERENCE.match(part):
                found.setdefault(match[1].lower(), match[2] or "")
        wait = _SECONDS.fullmatch(found.get("wait", ""))
        return cls(
            respond_async=found.get("respond-async") in {"", '""'},
            wait=None if wait is None else int(wait[1]),
        )

    def seconds(self, default: float | None, longest: float) -> float | None:
        """Return how long to wait; ``None``: until there is an answer."""
        if self.wait is not None:
            return min(self.wait, longest)
        return 0.0 if self.respond_async else default

    def applied(self, longest: float) -> str:
        """Return the value of ``Preference-Applied``; ``""`` if there is none."""
        names = ["respond-async"] if self.respond_async else []
        if self.wait is not None and self.wait <= longest:
            names.append(f"wait={self.wait}")
        return ", ".join(names)
