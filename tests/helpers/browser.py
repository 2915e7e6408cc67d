"""Headless Chromium for tests of HTML pages: Debian's packages chromium and chromium-driver."""

import atexit
import shutil
from contextlib import contextmanager
from functools import cache

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver (apt-get install both)"
)


@cache
def _driver():
    """The one browser of this process: starting it takes longer than most tests."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    atexit.register(driver.quit)
    return driver


@contextmanager
def open_page(path, width=1280, height=900):
    """A selenium driver that has a local file open; fails the test if its script failed.

    Args:
        path: Path of the HTML file, opened as file://.
    """
    driver = _driver()
    driver.set_window_size(width, height)
    driver.get_log("browser")  # of earlier pages
    driver.get(path.resolve().as_uri())
    try:
        yield driver
        severe = [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
        assert not severe
    finally:
        driver.get("about:blank")
