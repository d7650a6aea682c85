"""Reverse-mode differentiation of ONNX graphs, in standard operators.

`walk` goes backward over the forward graph, asks `registry` for each operator's rule, and writes
the gradient with `builder`. The result holds backward nodes only: the forward values that they
read are inputs, kept by the forward run. So rules read the forward operators in whatever opset
the model has, and nothing is converted.
"""
