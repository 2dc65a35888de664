"""Stages 3 and 6: mean IoU, rankings, reports, submissions."""
