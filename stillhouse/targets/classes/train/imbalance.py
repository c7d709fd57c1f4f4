"""Weights of the classes in the loss, and the checks around the settings for unequal classes.

Shapes: N rows, C classes.
"""

import numpy as np

from stillhouse.core.errors import ParamsError
from stillhouse.data.class_sampling import ClassSampler
from stillhouse.targets.classes.losses.class_losses import CrossEntropy
from stillhouse.targets.classes.predict.classes_task import ClassRows
from stillhouse.targets.classes.train.classes_config import ClassesTraining, ImbalanceParams


def class_weights(labels_N: np.ndarray, num_classes: int, params: ImbalanceParams) -> np.ndarray | None:
    """float32 (C,), 1 for the average of the training rows; None if all weigh alike. Rows without a label do not count.

    A class without rows has weight 0: nothing is ever asked of it.
    """
    if params.class_weights == "none":
        return None
    sizes_C = np.bincount(labels_N[labels_N >= 0], minlength=num_classes).astype(np.float64)
    if params.class_weights == "effective":
        # -expm1(n log beta) is 1 - beta^n without cancellation.
        beta = params.effective_beta
        effective_C = -np.expm1(sizes_C * np.log(beta)) / (1 - beta) if beta > 0 else (sizes_C > 0).astype(np.float64)
    else:
        effective_C = sizes_C
    weights_C = np.divide(1.0, effective_C, out=np.zeros(num_classes), where=sizes_C > 0)
    return (weights_C * sizes_C.sum() / (weights_C * sizes_C).sum()).astype(np.float32)


def cross_entropy(labels_N: np.ndarray, num_classes: int, params: ClassesTraining) -> CrossEntropy:
    """The loss on true labels that the parameters ask for."""
    weights_C = class_weights(labels_N, num_classes, params.imbalance)
    return CrossEntropy(labels_N, params.label_smoothing, weights_C, params.imbalance.focal_gamma)


def sampler_of(rows: ClassRows, params: ImbalanceParams, seed: int) -> ClassSampler | None:
    """How often each class is shown, or None: as often as it occurs."""
    if not params.changes_rows:
        return None
    up_to = params.augmentation.up_to if params.augmentation else 1
    return ClassSampler(rows.keys, rows.labels, params.sampling, seed, up_to)


def refuse_altered_copies(params: ClassesTraining) -> None:
    """Raises ParamsError where rows would have to be altered whose states are computed once."""
    if params.imbalance.augmentation is not None:
        raise ParamsError(
            "training.imbalance.augmentation alters rows anew in every step, and train_teacher.mode frozen computes the body's "
            "states once; use imbalance.sampling or class_weights"
        )


def refuse_imbalance(params: ClassesTraining, reason: str) -> None:
    """Raises ParamsError if anything is asked for about unequal classes where nothing can be done."""
    if params.imbalance.is_on:
        raise ParamsError(f"training.imbalance is set, but {reason}; leave it out")
