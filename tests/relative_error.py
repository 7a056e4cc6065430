# SPDX-License-Identifier: Apache-2.0
"""How far arrays are from what a reference computes."""

import numpy as np


def relative_error(found, expected, beside=None):
    """Norm of the difference over the norm of what is expected, or of `beside`."""
    size = np.linalg.norm(expected if beside is None else beside)
    return float(np.linalg.norm(np.asarray(found) - expected) / size)


def gradient_errors(found, expected):
    """{path: relative error} of gradients {path: array}.

    The key's bias shifts all scores of a row alike, so that the loss has no gradient by it: what
    rounding leaves there is set beside the gradient by the query's.
    """

    def beside(path):
        return expected[path.replace("attention/key/bias", "attention/query/bias")]

    return {path: relative_error(found[path], expected[path], beside(path)) for path in expected}
