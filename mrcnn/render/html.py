"""Self-contained HTML pages: one file that opens offline, from any folder.

Templates lie in `mrcnn/render/templates/`; every value put into them is escaped. They extend
`base.html.j2`, which brings the style and takes care of dark and light screens.
"""

import base64
import io
from functools import cache
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image

TEMPLATES = Path(__file__).parent / "templates"


@cache
def _environment():
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template, **values):
    """A page as text.

    Args:
        template: file name in `mrcnn/render/templates/`, such as "inspect.html.j2".
        **values: what the template uses; a name that it uses and does not get raises
            `jinja2.UndefinedError`. Text is escaped; in scripts write `{{ value | tojson }}`.
    """
    return _environment().get_template(template).render(**values)


def image_uri(image, longest=None, quality=85):
    """An image as a data: address, so that the page needs no second file.

    Args:
        image: uint8 [H, W, 3] RGB.
        longest: longer side in pixels to shrink to; None keeps the size.
        quality: of the JPEG, 1 to 95.
    """
    picture = Image.fromarray(np.ascontiguousarray(image))
    if longest:
        picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii")


def png_uri(data):
    """PNG bytes, such as a plot, as a data: address."""
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")
