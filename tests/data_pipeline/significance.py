# SPDX-License-Identifier: Apache-2.0
"""Significance of differences between counts, for tests of random data.

All data of a test come from fixed seeds, so a test passes or fails for good. What is right fails
when p < SMALLEST_P, what is wrong on purpose must fall below it.
"""

import math

import numpy as np

SMALLEST_P = 1e-4


def chi_square_p(statistic: float, freedom: int) -> float:
    """Probability of a larger chi-square statistic, by the cube-root normal approximation.

    Wilson and Hilferty, "The distribution of chi-square", 1931; within a few percent of p here.
    """
    variance = 2 / (9 * freedom)
    normal = ((statistic / freedom) ** (1 / 3) - (1 - variance)) / math.sqrt(variance)
    return math.erfc(normal / math.sqrt(2)) / 2


def fit_p(counts: np.ndarray, shares: np.ndarray | float | None = None) -> float:
    """P-value of independent outcomes, counted in `counts`, with these shares (default: equal)."""
    counts = np.ravel(counts)
    expected = counts.sum() * (1 / counts.size if shares is None else np.asarray(shares))
    statistic = float(np.sum((counts - expected) ** 2 / expected))
    return chi_square_p(statistic, counts.size - 1)


def two_sample_p(counts: np.ndarray) -> float:
    """P-value of two samples of independent outcomes, [2, outcomes], with the same shares."""
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.sum()
    statistic = float(np.sum((counts - expected) ** 2 / expected))
    return chi_square_p(statistic, counts.shape[1] - 1)


def paired_p(first: np.ndarray, second: np.ndarray) -> float:
    """P-value of two samples of counts, [clusters, bins], with equal expectations in each bin.

    Examples of one document depend on each other, so a plain chi-square of all examples would find
    differences where there are none: here the documents are the independent units, the variance is
    that of the difference between the two counts of a document (Wald's test).
    """
    difference = (first - second).astype(np.float64)
    difference = difference[:, np.any(difference != 0, axis=0)]
    if not difference.size:
        return 1.0
    covariance = np.atleast_2d(np.cov(difference, rowvar=False)) / len(difference)
    values, vectors = np.linalg.eigh(covariance)
    large = values > values.max() * 1e-9
    along = vectors.T[large] @ difference.mean(axis=0)
    return chi_square_p(float(np.sum(along**2 / values[large])), int(large.sum()))
