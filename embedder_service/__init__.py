"""Turns captions and images into vectors of one space, with a SigLIP checkpoint, over gRPC.

The way through it is one: ``__main__`` -> ``service`` -> ``servicer`` -> ``embedder`` -> ``batcher`` -> ``backends``.
Settings and metrics are leaves. Only ``checkpoint`` and ``backends`` import torch; only ``servicer`` and ``converters``
know protobuf messages.
"""
