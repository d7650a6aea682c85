"""The TensorFlow and Keras 3 adapter of gradcam_multi; its entry point is `plugin`."""
