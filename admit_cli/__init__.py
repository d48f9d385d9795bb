"""admit_cli: the command line. It parses, asks the one application, and renders."""
