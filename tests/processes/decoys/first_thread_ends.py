"""A process whose first thread ends while another lives: its command line is empty, and it holds its memory."""

import ctypes
import sys
import threading

threading.Thread(target=sys.stdin.read).start()
print("ready", flush=True)
ctypes.CDLL(None).pthread_exit(None)
