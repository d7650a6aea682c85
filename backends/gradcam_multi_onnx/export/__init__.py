"""Explanations as ONNX files: forward, gradient and map in one graph of standard operators."""
