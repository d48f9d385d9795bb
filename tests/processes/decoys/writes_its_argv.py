"""A process that writes over its own argv, as setproctitle does: each line that it reads becomes its command line.

`arg_start` and `arg_end` are fields 48 and 49 of /proc/self/stat (proc_pid_stat(5)).
"""

import ctypes
import sys

with open("/proc/self/stat", "rb") as stat:
    fields = stat.read().rsplit(b")", 1)[1].split()
start, end = int(fields[45]), int(fields[46])
print("ready", flush=True)
for line in sys.stdin.buffer:
    title = line.rstrip(b"\n").replace(b"|", b"\0")[: end - start - 1]
    ctypes.memmove(start, title.ljust(end - start, b"\0"), end - start)
    print("written", flush=True)
