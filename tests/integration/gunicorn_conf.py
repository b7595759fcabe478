"""Settings of the servers that the tests start, as far as they are all alike."""

worker_class = "gthread"
control_socket_disable = True  # gunicorn 25 and later would make one in the home directory
