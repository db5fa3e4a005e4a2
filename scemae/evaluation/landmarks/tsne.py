"""One run of t-SNE. A process that only repeats it imports this file, without torch and the rest of
the project: half the time of its start.
"""

import numpy as np
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits


def tsne(vectors: np.ndarray, perplexity: float, start: int) -> np.ndarray:
    """The vectors (n, d) in the plane (n, 2) float32, from the random start of that seed."""
    found = TSNE(init="random", perplexity=perplexity, random_state=start, n_jobs=1)
    # One thread: several add sums in another order, and t-SNE amplifies the difference.
    with threadpool_limits(1):
        return found.fit_transform(vectors)
