"""What must be set before TensorFlow is imported, and its quiet import."""

import os
import sys
import tempfile


def hold_weights(fixed):
    """Tells oneDNN whether weights stay as they are in this process, before TensorFlow is imported.

    If they do, it brings them into its own order once, not for each image, and doesn't fall
    back to kernels that are several times slower for batches of one. It would take weights that
    train for fixed as well, and go on with the first ones.

    Args:
        fixed: bool. A value of TF_ONEDNN_ASSUME_FROZEN_WEIGHTS in the environment stands if
            it is True.
    """
    if fixed:
        os.environ.setdefault("TF_ONEDNN_ASSUME_FROZEN_WEIGHTS", "1")
    else:
        os.environ["TF_ONEDNN_ASSUME_FROZEN_WEIGHTS"] = "0"


def import_tensorflow():
    """Imports TensorFlow and Keras quietly and lean.

    Quietly: their C++ part writes notes before it reads its log level, which would bury what
    the commands print; they are shown if the import fails. Lean: Keras imports OpenCV (which
    needs libGL), matplotlib and SciPy for helpers that nothing here uses.
    """
    unwanted = [name for name in ("cv2", "matplotlib", "scipy") if name not in sys.modules]
    for name in unwanted:
        sys.modules[name] = None  # type: ignore[assignment]  # an import of it then fails
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as notes:
        os.dup2(notes.fileno(), 2)
        try:
            import keras  # noqa: F401 - for its side effect
            import tensorflow

            tensorflow.config.list_physical_devices()
        except BaseException:
            notes.seek(0)
            os.write(kept, notes.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            for name in unwanted:
                del sys.modules[name]
