"""Masks fitted to the edges in the image, by GrabCut (Rother et al., 2004) of OpenCV."""

import os
import threading
from typing import Any

import numpy as np

# Above this probability, or below 1 minus it, the network decides; in between the image does.
SURE = 0.8
SMALLEST = 8  # pixels; below, a box holds too little to learn colours from
# Pixels of a side; larger boxes are cut at this size. Full size is slower and no better.
LARGEST = 384
# IoU with the plain mask below which a fit is dropped: it lost the garment among like colours, or
# spread over them. On street photos 6 % of the fits fall below, with no change in mask AP.
LEAST_AGREEMENT = 0.4
# Cuts at once: each takes a core that the network could have, and 24 MB for the largest box.
_TURNS = threading.BoundedSemaphore(max(1, (os.cpu_count() or 2) // 2))


def load_opencv() -> Any:
    """OpenCV; of the detector only `--refine` needs it.

    Raises:
        ImportError: if it can't be imported, with what to do.
    """
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            f"refining masks needs OpenCV, which can't be imported ({error}); run "
            "pip install opencv-python-headless"
        ) from error
    return cv2


def refine_mask(image: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """A garment's mask, its edge moved to where the colours change.

    Args:
        image: [h, w, 3] uint8 RGB, the image within the garment's box.
        probabilities: [h, w] float in 0..1.

    Returns:
        [h, w] bool; the plain mask, probabilities >= 0.5, where there is nothing to learn colours
        from or the fit has little in common with it.
    """
    cv2 = load_opencv()
    plain: np.ndarray = probabilities >= 0.5
    scale = min(1.0, LARGEST / max(1, *plain.shape))
    if min(plain.shape) < SMALLEST:
        return plain
    pixels = np.ascontiguousarray(image[..., ::-1])  # OpenCV's order
    values = np.ascontiguousarray(probabilities, np.float32)
    if scale < 1:
        size = (round(plain.shape[1] * scale), round(plain.shape[0] * scale))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        values = cv2.resize(values, size)
    guess = np.where(values >= 0.5, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    guess[values < 1 - SURE], guess[values > SURE] = cv2.GC_BGD, cv2.GC_FGD
    inside = guess % 2 == 1
    if inside.all() or not inside.any():
        return plain
    models = np.zeros((1, 65)), np.zeros((1, 65))
    with _TURNS:
        cv2.setRNGSeed(0)  # of this thread; its clustering starts at random
        cv2.grabCut(pixels, guess, None, *models, 1, cv2.GC_INIT_WITH_MASK)
    cut = (guess % 2).astype(np.float32)
    if scale < 1:
        cut = cv2.resize(cut, (plain.shape[1], plain.shape[0]))
    fitted: np.ndarray = cut >= 0.5
    shared, union = np.count_nonzero(plain & fitted), np.count_nonzero(plain | fitted)
    return fitted if shared >= LEAST_AGREEMENT * union else plain
