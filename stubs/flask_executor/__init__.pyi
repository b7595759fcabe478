# Types for Flask-Executor 1.0.0, which has none. For code that still imports flask_executor.
from flask_executor.executor import Executor as Executor

__all__ = ("Executor",)
__version__: str
