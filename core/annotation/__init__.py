"""Masks and people: formats of annotation tools, corrected masks, and decisions on web images."""
