"""A process that is stopped by its tracer, which is whoever started it: state t."""

import ctypes
import os
import signal

ctypes.CDLL(None).ptrace(0, 0, 0, 0)  # PTRACE_TRACEME
os.kill(os.getpid(), signal.SIGSTOP)
