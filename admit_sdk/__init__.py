"""admit_sdk: the rules of admit inside one app. It imports neither the daemon nor a web framework."""
