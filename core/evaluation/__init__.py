"""Evaluation of both models: mean IoU, rankings, reports, submissions."""
