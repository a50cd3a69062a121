"""``eyebright evaluate``: how much of what captions and pictures mean a collection finds, and how much of it the index."""
