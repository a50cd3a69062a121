"""The ``eyebright`` command: starts the services, indexes pictures, searches them, shows what it found.

A thin layer over the SDK. It imports neither torch nor faiss: the services it starts are child processes.
"""
