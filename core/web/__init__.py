"""Collect web images of each class and clean them."""
