"""An embedder whose device can be made ill: for servers inside the test process, and as a process of its own.

``python -m tests.integration.embedder_service.ill_host`` takes the service's options. A picture of nothing but black
kills its device thread.
"""

import sys
from threading import Event

import numpy as np

from embedder_service import service
from embedder_service.backends import Tower
from embedder_service.backends.torch_backend import TorchBackend
from embedder_service.command import main


class IllBackend(TorchBackend):
    """The real towers. ``drift`` is added to every vector, ``healthy`` holds up every pass while it is not set."""

    drift = 0.0
    healthy = Event()
    healthy.set()

    def forward(self, tower: Tower, batch: np.ndarray) -> np.ndarray:
        self.healthy.wait()
        if tower is Tower.IMAGE and (batch == 0).all(axis=(1, 2, 3)).any():
            raise SystemExit("killed by a black picture")
        vectors = super().forward(tower, batch) + self.drift
        unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


if __name__ == "__main__":
    vars(service)["TorchBackend"] = IllBackend
    sys.exit(main(sys.argv[1:]))
