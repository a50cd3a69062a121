"""The figures of the paper, "Image-Based-Retrieval system using FAISS Algorithm and SigLIP model", as printed there.

Owns nothing that was measured here.
"""

FLAT, IVF, HNSW, LSH = "IndexFlatL2", "IndexIVFFlat", "IndexHNSWFlat", "IndexLSH"

MACHINE = "a MacBook M2 with 16 GB of memory"

RECALL: dict[str, dict[int, float]] = {
    FLAT: {1: 0.088, 10: 0.353, 50: 0.674, 100: 0.870},
    IVF: {1: 0.007, 10: 0.016, 50: 0.034, 100: 0.041},
}
"""Table 1: task recall@k of 1,000 captions among a million pictures, so400m-patch14-384."""

WITHOUT_FAISS = "Without FAISS"

HITS = (10, 100, 1_000, 10_000, 100_000)

SECONDS: dict[int, dict[str, tuple[float, ...]]] = {
    768: {
        WITHOUT_FAISS: (44.1362, 55.8243, 67.0342, 61.0510, 48.6658),
        FLAT: (0.5619, 0.5624, 0.5677, 0.5618, 0.5879),
        IVF: (0.0219, 0.0204, 0.0194, 0.0190, 0.0236),
    },
    1152: {
        WITHOUT_FAISS: (116.0751, 125.7797, 121.3240, 131.2460, 123.6157),
        FLAT: (0.4266, 0.3330, 0.3784, 0.4812, 0.5135),
        IVF: (0.0694, 0.0596, 0.0132, 0.0573, 0.0648),
    },
}
"""Tables 2 and 3, by the dimension: seconds of one search for each of HITS among a million pictures."""

BUILD_SECONDS: dict[int, dict[str, float]] = {768: {FLAT: 1.46, IVF: 2.96}, 1152: {FLAT: 3.19, IVF: 5.42}}
