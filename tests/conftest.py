"""conftest: how hard hypothesis tries: bounded, and the same each time in CI. `--hypothesis-profile=thorough` digs."""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

settings.register_profile(
    "ci", derandomize=True, deadline=None, max_examples=200, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("dev", deadline=None, max_examples=200)
settings.register_profile("thorough", deadline=None, max_examples=5_000)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

# A shell starts what runs in its background deaf to Ctrl-C, and children inherit that; tests press it.
signal.signal(signal.SIGINT, signal.default_int_handler)
