"""Pages about the project, and what writes those that follow from the code (``python -m docs.generate``)."""
