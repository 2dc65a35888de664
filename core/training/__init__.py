"""Train the init and the final model."""
