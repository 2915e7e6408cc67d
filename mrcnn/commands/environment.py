"""What must be set before TensorFlow is imported, and its quiet import."""

import os
import sys
import tempfile


def assume_frozen_weights(frozen: bool) -> None:
    """Tells oneDNN whether this process changes the weights; call it before TensorFlow is imported.

    If they are frozen, oneDNN reorders them once and not for each image, and doesn't fall back to
    kernels that are several times slower for batches of one. It would go on with the first weights
    of a model that trains, so then the setting is turned off whatever the environment says; a
    value of TF_ONEDNN_ASSUME_FROZEN_WEIGHTS stands only if frozen is True.
    """
    if frozen:
        os.environ.setdefault("TF_ONEDNN_ASSUME_FROZEN_WEIGHTS", "1")
    else:
        os.environ["TF_ONEDNN_ASSUME_FROZEN_WEIGHTS"] = "0"


def import_tensorflow() -> None:
    """Imports TensorFlow and Keras quietly and lean.

    Quietly: TensorFlow's C++ code logs before it reads its log level; that is shown only if the
    import fails. Lean: Keras imports OpenCV (which needs libGL), matplotlib and SciPy for helpers
    that nothing here uses.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    unwanted = [name for name in ("cv2", "matplotlib", "scipy") if name not in sys.modules]
    for name in unwanted:
        sys.modules[name] = None  # type: ignore[assignment]  # an import of it then fails
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            import keras  # noqa: F401 - for its side effect
            import tensorflow

            tensorflow.config.list_physical_devices()
        except BaseException:
            log.seek(0)
            os.write(stderr, log.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            for name in unwanted:
                del sys.modules[name]
