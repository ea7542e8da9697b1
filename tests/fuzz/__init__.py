"""Rude clients before the relay, a moody upstream behind it: `python -m tests.fuzz --minutes 30`."""
