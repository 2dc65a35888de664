"""The ResNet-50 FCN, its parameter files, and base models of other frameworks."""
