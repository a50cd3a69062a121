"""Keeps vectors in sharded collections and searches them: the index service of Eyebright.

The way through it is one: ``__main__ -> host -> servicer -> collection -> shard -> record_store, memtable, segment``.
SQLite holds the truth; what stands in memory is rebuilt from it.
"""
