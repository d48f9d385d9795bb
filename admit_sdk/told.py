"""told: what the SDK says by itself, through the logger `admit_sdk`; logging is imported when there is something."""

from __future__ import annotations


def tell_fault(what: str) -> None:
    """Log the exception that is being handled."""
    import logging

    logging.getLogger("admit_sdk").exception(what)


def warn(what: str) -> None:
    """Log a warning."""
    import logging

    logging.getLogger("admit_sdk").warning(what)
