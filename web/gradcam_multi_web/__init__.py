"""ONNX Runtime Web's files, in the folder `runtime`; read with importlib.resources."""
