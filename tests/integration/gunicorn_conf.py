"""Settings of the servers that the tests start, as far as they are all alike."""

import os


def when_ready(_: object) -> None:
    """In the master, before it forks: use what the forks use too."""
    if os.environ.get("SERVED_WARM"):
        from tests.apps.served import crunch

        assert crunch.submit(os.getpid).result() != os.getpid()


worker_class = "gthread"
control_socket_disable = True  # gunicorn 25 and later would make one in the home directory
