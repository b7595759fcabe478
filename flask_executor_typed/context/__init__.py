"""Flask's contexts and the contextvars of one moment: captured here, pushed in a worker.

The only package that knows Flask's private context names and how its versions differ. Its modules,
of which each imports only from those before it:

- slots: where Flask keeps active contexts, and how its versions differ
- rules: what of ``g`` and of its submitter's contexts a job gets
- portable: a snapshot as plain data
- bodies, uploads: what of a request cannot be copied
- snapshot: one moment's app, request and ``g``, as a value
- unused: contexts whose values are made when somebody looks
- requests: a captured request, and a copy of it for each run
- capturing: takes a snapshot, when a job is submitted
- pushing: makes a snapshot current, where the job runs
- rebuilt: makes a snapshot of its plain data, in another process
"""

from .capturing import capture
from .portable import PortableContext
from .pushing import PushedContexts, PushedInTask, run_pushed, running_call
from .rebuilt import rebuild
from .rules import CarryG, ContextRules, without_resources
from .slots import active_app_context
from .snapshot import ContextSnapshot

__all__ = (
    "CarryG",
    "ContextRules",
    "ContextSnapshot",
    "PortableContext",
    "PushedContexts",
    "PushedInTask",
    "active_app_context",
    "capture",
    "rebuild",
    "run_pushed",
    "running_call",
    "without_resources",
)
