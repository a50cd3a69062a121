"""The services on a network and over time: faults, restarts, load, drift. (Faults of a disk: tests/faults.)"""
