"""Masks for the web images of each class, learned from no mask."""
