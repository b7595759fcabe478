"""How the demo serves the app: gunicorn's settings, each with its reason."""

# Futures and their keys live in the memory of one process: with two, a poll could reach the one
# that does not know the key. Threads and loops inside of one process see the same keys.
workers = 1
worker_class = "gthread"
threads = 8

# SIGTERM: requests have this many seconds to end. Accepted jobs run to their end as well.
graceful_timeout = 30

control_socket_disable = True  # gunicorn 25 and later would make one in the home directory
