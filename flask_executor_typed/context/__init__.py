"""Capture Flask's contexts and the contextvars of one moment, and push them in a worker.

The only package that knows Flask's private context names and how its versions differ. Each
of its modules imports only from those before it:

- compat: where Flask keeps active contexts, and how its versions differ
- carry: the values of ``g`` that a job gets
- portable: a snapshot as plain data
- uploads: the uploaded files of a request, for many readers
- arguments: arguments of a call that belong to the request
- snapshot: one moment's app, request and ``g``, as a value
- lazy: contexts whose attributes are created on first access
- request: a captured request, and a copy of it for each run
- capture: take a snapshot, when a job is submitted
- push: make a snapshot current, where the job runs
- handback: a session of a job's own, and what its request can take back
- rebuild: make a snapshot from its plain data, in another process
"""

from .arguments import carried_function, job_arguments, rewind_uploads
from .capture import capture
from .carry import CarryG, ContextRules, without_resources
from .compat import active_app_context, missing_context
from .handback import copy_of_g, copy_of_session, take_after_request_functions, use_session
from .portable import PortableContext
from .push import PushedContexts, PushedInTask, run_pushed, running_call
from .rebuild import rebuild
from .snapshot import ContextSnapshot
from .uploads import SharedContent

__all__ = (
    "CarryG",
    "ContextRules",
    "ContextSnapshot",
    "PortableContext",
    "PushedContexts",
    "PushedInTask",
    "SharedContent",
    "active_app_context",
    "capture",
    "carried_function",
    "copy_of_g",
    "copy_of_session",
    "job_arguments",
    "missing_context",
    "rebuild",
    "rewind_uploads",
    "run_pushed",
    "running_call",
    "take_after_request_functions",
    "use_session",
    "without_resources",
)
