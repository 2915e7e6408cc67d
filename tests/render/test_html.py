"""Pages: escaping, self-containment, and that a real browser shows them."""

import base64
import io

import jinja2
import numpy as np
import pytest
from PIL import Image

from mrcnn.render import html
from tests.helpers.browser import needs_browser, open_page


def test_values_are_escaped(monkeypatch, tmp_path):
    (tmp_path / "a.html.j2").write_text("<p>{{ text }}</p><script>x = {{ text | tojson }}</script>")
    monkeypatch.setattr(html, "TEMPLATES", tmp_path)
    html._environment.cache_clear()
    try:
        page = html.render("a.html.j2", text="</script><b>")
        with pytest.raises(jinja2.UndefinedError):
            html.render("a.html.j2")
    finally:
        html._environment.cache_clear()
    assert "<b>" not in page and page.count("</script>") == 1


def test_image_uri_keeps_the_aspect():
    image = np.zeros((100, 50, 3), np.uint8)
    image[..., 0] = 255
    uri = html.image_uri(image, longest=40)
    head, data = uri.split(",")
    assert head == "data:image/jpeg;base64"
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert picture.size == (20, 40)
    red, green, blue = picture.getpixel((10, 20))
    assert red > 240 and green < 15 and blue < 15


@needs_browser
def test_a_browser_shows_the_picture(tmp_path):
    uri = html.image_uri(np.full((10, 20, 3), 200, np.uint8))
    page = tmp_path / "page with space.html"
    text = html.render("base.html.j2").replace("<body>", f"<body><img id=p src={uri}>")
    page.write_text(text, encoding="utf-8")
    with open_page(page) as driver:
        width = driver.execute_script("return document.getElementById('p').naturalWidth")
    assert width == 20
