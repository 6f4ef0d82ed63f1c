"""MDETR (arXiv 2104.12763): boxes and masks for the phrases of a caption."""
