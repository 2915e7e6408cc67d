"""Self-contained HTML pages: one file that opens offline, from any folder.

Templates lie in `mrcnn/render/templates/`; every value put into them is escaped. They extend
`base.html.j2`, which holds the style for dark and light screens.
"""

import base64
import io
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from mrcnn.core.text import cut

TEMPLATES = Path(__file__).parent / "templates"


LONGEST = 80  # characters of a name


def short(text: object, most: int = LONGEST) -> str:
    """A name from a stranger as pages show it, a filter in templates; see `core.text.cut`."""
    return cut(text, most)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["short"] = short
    return environment


def render(template: str, **values: Any) -> str:
    """A page as text.

    Args:
        template: file name in `mrcnn/render/templates/`, such as "inspect.html.j2".
        **values: what the template uses; a missing one raises `jinja2.UndefinedError`. Text is
            escaped; in scripts write `{{ value | tojson }}`.
    """
    return _environment().get_template(template).render(**values)


def image_uri(image: Any, longest: int | None = None, quality: int = 85) -> str:
    """An image as a data URL, so that the page needs no second file.

    Args:
        image: uint8 [H, W, 3] RGB, or a Pillow image.
        longest: longer side in pixels to shrink to; None keeps the size.
        quality: of the JPEG, 1 to 95.
    """
    shown = Image.fromarray(np.ascontiguousarray(image))
    if longest:
        shown.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    shown.save(data, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii")


def png_uri(data: bytes) -> str:
    """PNG bytes, such as a plot, as a data URL."""
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")
