"""Jobs as pages show them: titles, sentences, times and durations."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from math import floor

from markupsafe import Markup

from ..stores import JobRecord
from .schema import JobDocument
from .texts import TEXTS, WORDS

__all__ = ("ShownJob", "duration", "time_ago", "time_tag")


@dataclass(frozen=True, slots=True)
class ShownJob:
    """A job in a template. What it is made of is :attr:`record`, and :attr:`json` what its user
    may know."""

    record: JobRecord
    json: JobDocument
    now: datetime

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def status(self) -> str:
        return self.record.status

    @property
    def done(self) -> bool:
        return self.record.done

    @property
    def cancel_requested(self) -> bool:
        return self.record.cancel_requested

    @property
    def links(self) -> dict[str, str]:
        return self.json["links"]

    @property
    def word(self) -> str:
        return WORDS[self.record.status]

    @property
    def title(self) -> str:
        """``"Build report"`` for a function called ``build_report``; other names stay."""
        name = self.json["name"]
        if not name.isidentifier():
            return name
        words = name.replace("_", " ").strip() or name
        return words[0].upper() + words[1:]

    @property
    def percent(self) -> int | None:
        progress = self.json["progress"]
        return None if progress is None else progress["percent"]

    @property
    def figure(self) -> str:
        """How far a job is that is not done: ``"42 %"``, or ``"1,240"`` without a total."""
        progress = self.json["progress"]
        if self.done or progress is None:
            return ""
        if progress["percent"] is not None:
            return f"{progress['percent']} %"
        return f"{progress['done']:,}" if progress["done"] else ""

    @property
    def headline(self) -> str:
        """The title of a page: what matters first, for it is cut to the width of a tab."""
        return f"{self.figure or self.word} · {self.title}"

    @property
    def announcement(self) -> str:
        """What a screen reader says: another text for each state, and each tenth of the way."""
        if self.done or self.percent is None:
            return self.word
        return f"{self.word}, {self.percent // 10 * 10} %"

    @property
    def says(self) -> str:
        """One sentence: what a running job says itself, or how a job has ended."""
        error, progress = self.json["error"], self.json["progress"]
        if error is not None:
            return error["detail"] or TEXTS["failed"]
        match self.record.status:
            case "cancelled":
                text = TEXTS["cancelled"]
            case "succeeded" if "result" in self.links:
                text = TEXTS["succeeded"].format(duration=self.took)
            case "succeeded":
                text = TEXTS["result_gone"]
            case _ if self.cancel_requested:
                text = TEXTS["stopping"]
            case "pending":
                text = TEXTS["waits"]
            case _:
                text = "" if progress is None else progress["message"]
        return text

    @property
    def says_briefly(self) -> str:
        """The same in a row of a list, where the word is enough for what is usual."""
        error = self.json["error"]
        return self.says if error is None else error["detail"] or ""

    @property
    def took(self) -> str:
        """How long the job ran, or has been running; ``""`` if it has not begun."""
        begun = self.record.started_at
        if begun is None:
            return ""
        return duration(((self.record.finished_at or self.now) - begun).total_seconds())

    @property
    def submitted(self) -> Markup:
        return time_tag(self.record.submitted_at)

    @property
    def submitted_ago(self) -> Markup:
        return time_ago(self.record.submitted_at, self.now)

    @property
    def started(self) -> Markup | None:
        return self._later(self.record.started_at)

    @property
    def finished(self) -> Markup | None:
        return self._later(self.record.finished_at)

    def _later(self, time: datetime | None) -> Markup | None:
        if time is None:
            return None
        return time_tag(time, with_date=time.date() != self.record.submitted_at.date())


def time_tag(time: datetime, *, with_date: bool = True) -> Markup:
    """Return a time in UTC. A script may write it in the reader's time zone."""
    text = f"{time:%H:%M:%S} UTC"
    if with_date:
        return Markup('<time datetime="{}">{}</time>').format(_iso(time), f"{time:%Y-%m-%d} {text}")
    return Markup('<time datetime="{}" data-ex-clock>{}</time>').format(_iso(time), text)


def time_ago(time: datetime, now: datetime) -> Markup:
    text = f"{_roughly(max(0, floor((now - time).total_seconds())))} ago"
    return Markup('<time datetime="{}" data-ex-ago>{}</time>').format(_iso(time), text)


def _iso(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%SZ}"


def duration(seconds: float) -> str:
    """Return seconds as people say them: ``"0.3 s"``, ``"2 min 5 s"``, ``"3 h 20 min"``."""
    if seconds <= 0:
        return "0 s"
    if seconds < _SHORTEST:
        return f"< {_SHORTEST} s"
    if seconds < _WITH_A_DECIMAL and seconds != int(seconds):
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, size_below, unit_below in _UNITS:
        if whole >= size:
            count, rest = divmod(whole, size)
            below = rest // size_below
            return f"{count} {unit} {below} {unit_below}" if below else f"{count} {unit}"
    return f"{whole} s"


def _roughly(seconds: int) -> str:
    for size, unit, _, _ in _UNITS:
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


_SHORTEST = 0.1
_WITH_A_DECIMAL = 10
_UNITS = ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))
