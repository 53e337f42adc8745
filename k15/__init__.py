"""k15: the training system of Kimi k1.5 (arXiv 2501.12599), open."""

__version__ = "0.1.0"
