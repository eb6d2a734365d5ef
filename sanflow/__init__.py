"""sanflow: from photographs of good parts to a verified engine that judges every part on a line."""

__version__ = "0.1.0"
