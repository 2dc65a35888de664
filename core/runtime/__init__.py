"""What the work runs on: MXNet, GPU libraries, CPU cores and memory, worker processes."""
