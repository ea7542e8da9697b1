"""A pretend Salesforce org: OAuth and REST over HTTPS on loopback, stricter than the real one and never kinder.

What it refuses, and how, follows the REST API Developer Guide and the object reference; where those are silent it
refuses as well. `python -m tests.sandbox.org` starts one with a page that shows its records."""
