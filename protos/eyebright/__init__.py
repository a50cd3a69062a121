"""The contract: generated messages and stubs, and the codec between VectorBatch and numpy."""
