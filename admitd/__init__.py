"""admitd: the daemon, and everything that decides; the command line and the daemon share it."""

__version__ = "0.1.0"
