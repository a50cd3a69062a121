"""Measurements, each beside a reference in the same run. Not part of the distribution."""
