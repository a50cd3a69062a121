"""Both services under load: calls come when they come, whatever became of those before them.

``__main__`` says what is measured; ``runs`` offers a load, from processes of its own (``caller``); ``traffic`` knows
the kinds of call, ``outcomes`` what may become of one. torch is imported nowhere, FAISS through ``dataset`` alone.
"""
