"""examples: small apps on admit_sdk, to read and to take from."""
