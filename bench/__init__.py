"""bench: what looking, deciding, answering and starting cost, measured beside others in one run. `python -m bench`."""
