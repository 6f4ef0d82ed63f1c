"""OVDiff (arXiv 2306.09316): segmentation by prototypes of support images that a diffusion model draws."""
