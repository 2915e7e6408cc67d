"""What `--augment` names, and augmenters of users."""

import numpy as np
import pytest

from mrcnn.data.augmentation import augment_with_masks, make_augmentation
from mrcnn.data.policy import DEFAULT, FLIP, STRONG, ZOOM, Policy
from tests.helpers.augmenters import varied


def test_names():
    found = [make_augmentation(name) for name in ("none", "flip", "default", "zoom", "strong")]
    assert found == [None, FLIP, DEFAULT, ZOOM, STRONG]


def test_files_define_augmenters_policies_or_functions_that_return_them(tmp_path):
    from imgaug import augmenters as iaa

    texts = {
        "augmenter.py": "import imgaug.augmenters as iaa\naugmentation = iaa.Fliplr(0.5)\n",
        "function.py": "import imgaug.augmenters as iaa\ndef augmentation():\n    return iaa.Fliplr(1)",
        "policy.py": "from mrcnn.data.policy import Policy\naugmentation = Policy(zoom=0.7)\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    assert isinstance(make_augmentation(str(tmp_path / "augmenter.py")), iaa.Fliplr)
    assert isinstance(make_augmentation(tmp_path / "function.py"), iaa.Fliplr)
    assert make_augmentation(tmp_path / "policy.py") == Policy(zoom=0.7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("augmentation = 1 / 0", "fails: ZeroDivisionError"),
        ("raise SystemExit", "fails: SystemExit"),
        ("x = 1", "has `augmentation` as NoneType; define"),
        ("augmentation = [1]", "has `augmentation` as list; define"),
        ("def augmentation():\n    return 7", "has `augmentation` as int; define"),
        ("def augmentation(a):\n    return 7", "fails: TypeError"),
        (
            "import imgaug.augmenters as iaa\n"
            "augmentation = iaa.Lambda(func_images=lambda images, *_: images)",
            "Lambda .* would not move their masks",
        ),
    ],
)
def test_files_that_define_something_else_are_refused(tmp_path, text, message):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        make_augmentation(path)


def test_other_names_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match="augment is 'full'; use none, flip, default, zoom, strong or"
    ):
        make_augmentation("full")
    with pytest.raises(ValueError, match=r"gone.py does not exist"):
        make_augmentation(tmp_path / "gone.py")


def test_a_policy_is_no_augmenter_of_masks():
    with pytest.raises(TypeError, match="augmentation is a Policy"):
        augment_with_masks(DEFAULT, np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 1), bool))


def test_augmenters_of_imgaug_that_move_pixels_move_masks():
    """Each of these is let through, so its masks must follow."""
    from imgaug import augmenters as iaa

    image = np.zeros((96, 96, 3), np.uint8)
    image[20:60, 30:70] = 255
    mask = image[:, :, :1] > 127
    moves = [
        *(iaa.Fliplr(1), iaa.Flipud(1), iaa.Rot90(1), iaa.Affine(rotate=20), iaa.ShearX(15)),
        *(
            iaa.PerspectiveTransform(0.1),
            iaa.PiecewiseAffine(0.03),
            iaa.WithPolarWarping(iaa.Flipud(1)),
        ),
        *(iaa.TranslateX(px=9), iaa.ScaleY(1.3), iaa.Affine(scale=0.5, mode="reflect")),
        varied(zoom=0.5),
    ]
    for augmenter in moves:
        augmenter.seed_(3)
        augmented, moved = augment_with_masks(augmenter, image, mask)
        assert ((augmented.max(axis=2) > 127) != moved[:, :, 0]).mean() < 0.03, augmenter.name
        assert (moved != mask).any(), augmenter.name
