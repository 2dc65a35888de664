"""Stage 0a: collect web images of each class and clean them."""
