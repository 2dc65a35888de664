"""MXNet 1.9.1, the reference."""
