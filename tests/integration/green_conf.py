"""Settings of gunicorn for test_green.py: with GREENED_PATCH all of it is patched at once."""

import os
from importlib import import_module

if os.environ.get("GREENED_PATCH"):
    import_module("gevent.monkey").patch_all()

control_socket_disable = True  # gunicorn 25 and later would make one in the home directory
