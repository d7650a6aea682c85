"""The ONNX adapter of gradcam_multi: ONNX Runtime forward, differentiated graphs back."""
