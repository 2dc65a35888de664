"""Predict with a trained model: multi-scale scores, dense CRF, masks for the training images, media, ONNX."""
