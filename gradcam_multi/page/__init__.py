"""Explanations as a web page: one file, maps as numbers, coloured where they are looked at."""

from gradcam_multi.page.render import Page, need_jinja, page_of
from gradcam_multi.page.rows import ClassMap, Row, explained_row, rows_of

__all__ = ["ClassMap", "Page", "Row", "explained_row", "need_jinja", "page_of", "rows_of"]
