"""What browsers and API clients see of jobs.

Its modules, of which each imports only from those before it:

- preferences, origin, negotiation: what a request says of itself
- texts: the words of pages and answers
- schema: a job as JSON
- pages: a job as pages show it
- recorded: complete responses, read once and sent many times
- results: the result of a job as a response
- monitor: figures of many jobs
"""

from .schema import job_schema, problem_schema

__all__ = ("job_schema", "problem_schema")
