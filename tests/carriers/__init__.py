"""Programs under real tracing libraries; test_carriers.py runs each in a process of its own."""
