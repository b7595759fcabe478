"""Apps that show the library at work, and a demo that runs one of them under gunicorn."""
