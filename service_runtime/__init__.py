"""Hosts a gRPC service, whichever it is: lifecycle, interceptor, health, metrics endpoint, logs, credentials.

Rule of admission: a module belongs here only if it would stand unchanged in a third service. It therefore imports no
torch, no faiss, and nothing of ``eyebright``, the services or the client.
"""
