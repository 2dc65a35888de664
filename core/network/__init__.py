"""The networks, their parameter files, and base models of other frameworks."""
