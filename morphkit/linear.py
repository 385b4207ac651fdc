"""Linear algebra that does not give up on finite matrices."""

import numpy as np
import scipy.linalg
from jaxtyping import Float


def svd(
    matrix: Float[np.ndarray, "n m"],
) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, " k"], Float[np.ndarray, "k m"]]:
    """U, s and Vᵀ of the thin singular value decomposition of `matrix` (n, m), k = min(n, m).

    LAPACK's divide and conquer, fast, ends without a result on some finite matrices; its QR
    iteration does not, and takes over then. Raises ValueError for NaN or infinity.
    """
    try:
        return np.linalg.svd(matrix, full_matrices=False)
    except np.linalg.LinAlgError:
        u, s, vt = scipy.linalg.svd(matrix, full_matrices=False, lapack_driver="gesvd")
        return u, s, vt
