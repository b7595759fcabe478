"""Routes, pages and events by which users follow jobs; and views that run as jobs.

No other package defines routes. What is known of a job is its record. Its modules, of which each
imports only from those before it:

- preferences, origin, negotiation: what a request says of itself
- texts: the words of pages
- urls: the addresses of the routes
- access: who may see a job
- schema: a job as JSON
- pages: a job as pages show it
- recorded: read a response to its end
- results: the result of a job as a response
- answers: what a client is told of a job
- respond: views in the background
- events: streams of progress
- listing, monitor: many jobs
- routes: what is answered below the prefix
- blueprint: what an app registers, and the two doors from its views
"""

from .blueprint import JobsBlueprint
from .schema import job_schema, problem_schema

__all__ = ("JobsBlueprint", "job_schema", "problem_schema")
