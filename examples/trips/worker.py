"""The agency as Celery's workers load it: ``celery -A examples.trips.worker worker``."""

from . import create_app

__all__ = ("celery_app", "flask_app")

flask_app = create_app()  # not "app", which Celery would take for its own
celery_app = flask_app.extensions["celery"]
