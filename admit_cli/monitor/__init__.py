"""monitor: what `admit top` shows, and what it does when it is told to."""
