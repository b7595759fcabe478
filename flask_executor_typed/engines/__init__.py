"""Task queues that carry jobs to workers on any machine: Celery, Dask, or one of the app's own.

The store of job records is the truth. An engine only carries a signed message that names a job. It
may lose it, delay it or deliver it many times: a worker first takes the job in the store, which
only one can, and runs it after that.

- protocol: what an engine is
- envelope: sign the message of a job, and read it
- worker: take jobs, and run them
- submitter: hand calls to an engine, and settle them by their records
- celery: the engine of ``EXECUTOR_TYPE='celery'``, and its task
- dask: the engine of ``EXECUTOR_TYPE='dask'``, and its task
"""

from .protocol import Engine, Message, Route
from .submitter import EngineBackend, publish
from .worker import EngineSetup, Serving, run_message

__all__ = (
    "Engine",
    "EngineBackend",
    "EngineSetup",
    "Message",
    "Route",
    "Serving",
    "publish",
    "run_message",
)
