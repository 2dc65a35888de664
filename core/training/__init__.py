"""Stages 2 and 5: train the init and the final model."""
