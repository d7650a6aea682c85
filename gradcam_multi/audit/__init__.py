"""Many pictures: maps, scores and figures in Parquet, and what is suspicious in them."""

from gradcam_multi.audit.run import ENGINES, audit

__all__ = ["ENGINES", "audit"]
