"""``eyebright evaluate``: how much of what is meant a collection finds, and how much of it the index loses."""
