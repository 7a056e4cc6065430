# SPDX-License-Identifier: Apache-2.0
"""Official figures of the GLUE tasks, by the libraries that the official scripts use.

`f1` is that of label 1 of two (MRPC, QQP); `macro_f1` averages over all labels. The original GLUE
and `transformers` scripts call the same functions of scikit-learn and SciPy.
"""

import warnings
from collections.abc import Sequence

import numpy as np

from data_pipeline.errors import ConfigError, UsageError

CLASSES = ("accuracy", "f1", "macro_f1", "matthews")
NUMBERS = ("pearson", "spearman")


def check_metrics(names: Sequence[str], known: Sequence[str]) -> None:
    """Refuses figures that the task does not have.

    Raises:
        ConfigError: naming those it has.
        UsageError: the libraries are not installed.
    """
    for name in names:
        if name not in known:
            raise ConfigError(
                f"evaluation.metrics: {name!r} is no figure of this task; it has {', '.join(known)}"
            )
    try:
        import scipy.stats  # noqa: F401
        import sklearn.metrics  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "fine-tuning needs scikit-learn and SciPy; install the extra: "
            "pip install 'bert-jax[finetune]'"
        ) from error


def class_figures(
    names: Sequence[str], expected: np.ndarray, predicted: np.ndarray
) -> dict[str, float]:
    """Figures of predicted classes, int [rows] both; all lie in [0, 1] or, matthews, in [-1, 1]."""
    from sklearn import metrics

    functions = {
        "accuracy": metrics.accuracy_score,
        "f1": lambda y, p: metrics.f1_score(y, p, zero_division=0),
        "macro_f1": lambda y, p: metrics.f1_score(y, p, average="macro", zero_division=0),
        "matthews": metrics.matthews_corrcoef,
    }
    return {name: float(functions[name](expected, predicted)) for name in names}


def number_figures(
    names: Sequence[str], expected: np.ndarray, predicted: np.ndarray
) -> dict[str, float]:
    """Correlations of predicted numbers, float [rows] both; 0 where one side is constant."""
    from scipy import stats

    functions = {"pearson": stats.pearsonr, "spearman": stats.spearmanr}
    figures = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that one side is constant
        for name in names:
            value = float(functions[name](expected, predicted)[0])
            figures[name] = value if np.isfinite(value) else 0.0
    return figures
