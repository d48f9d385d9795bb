"""What happens when services together want twice the memory: the kernel alone, earlyoom, and `admit`."""
