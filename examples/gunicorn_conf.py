"""How the demo serves the app: gunicorn's settings, each with its reason."""

import os

# With EXECUTOR_STORE every process knows every job. Without it keys and futures live in the memory
# of one, so that a poll would often reach another, which does not know them.
workers = int(os.environ.get("WEB_CONCURRENCY", "1"))
worker_class = "gthread"
threads = 8

# SIGTERM: requests have this many seconds to end. Accepted jobs run to their end as well.
graceful_timeout = 30

control_socket_disable = True  # gunicorn 25 and later would make one in the home directory
