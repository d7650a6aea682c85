"""The PyTorch adapter of gradcam_multi; it enters through `gradcam_multi_torch.plugin`."""
