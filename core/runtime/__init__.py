"""What the work runs on: CPU cores and memory, worker processes, a cluster; and pages for this machine's browser."""
