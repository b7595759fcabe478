"""The words of pages and answers. To translate pages, override their templates."""

from __future__ import annotations

from collections.abc import Mapping

from ..stores import JobStatus

__all__ = ("TEXTS", "WORDS")

WORDS: Mapping[JobStatus, str] = {
    "pending": "Waiting",
    "running": "Running",
    "succeeded": "Done",
    "failed": "Failed",
    "cancelled": "Cancelled",
    "lost": "Stopped",
}
"""The states, in the order in which pages show them."""

TEXTS: Mapping[str, str] = {
    "all": "All",
    "all_jobs": "All jobs",
    "attempts": "Attempts",
    "cancel": "Cancel",
    "cancelled": "It was cancelled.",
    "failed": "Something went wrong on our side. If it happens again, tell us the number below.",
    "failed_lately": "Failed, last hour",
    "failed_within": "failed within {span}",
    "failures": "Failures",
    "finished": "Finished",
    "function": "Function",
    "gone": "This job is no longer known here.",
    "job": "Job",
    "jobs": "Jobs",
    "key": "Key",
    "log": "Last lines of its log",
    "lost": "The server was stopped while this ran. Please start it again.",
    "median": "Median",
    "newest": "Newest",
    "no_jobs": "There are no jobs here.",
    "nobody": "nobody",
    "number": "Number",
    "older": "Older",
    "oldest": "Oldest waits",
    "only": "Only",
    "open_result": "Open the result",
    "progress": "Progress",
    "progress_of": "Progress of {title}",
    "reload": "Reload",
    "reloads": "This page reloads itself every {seconds} seconds.",
    "result_gone": "The result is no longer kept.",
    "runs": "Runs",
    "server": "Server",
    "show_all": "Show all",
    "slow": "95 % within",
    "slowest": "Slowest",
    "started": "Started",
    "state": "State",
    "states": "States",
    "still": "This page no longer reloads itself.",
    "stop_reloading": "Stop that",
    "stopping": "It was asked to stop.",
    "store_down": "What is known of jobs cannot be read or written now. Please try again.",
    "submitted": "Submitted",
    "succeeded": "It took {duration}.",
    "times": "Times",
    "took": "Took",
    "traceback": "Traceback",
    "user": "User",
    "waits": "It starts as soon as there is a free worker.",
    "window": "Of the last {count} jobs.",
}
