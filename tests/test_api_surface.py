"""matterport's public names, arguments and defaults, as recorded from its five modules."""

import importlib
import inspect

import numpy as np
import pytest

from tests.helpers import read_json

MODULES = read_json("api_surface.json")["modules"]
# A folder of the original's checkout, and a function that it never wrote.
ABSENT = {"visualize": {"ROOT_DIR"}, "utils": {"mold_mask"}}
# Hooks that Keras 3 calls with other arguments.
KERAS_OWN = {"compute_mask"}

modules = pytest.mark.parametrize("name", [pytest.param(m, marks=pytest.mark.tf) for m in MODULES])


def public(name):
    """The recorded names of a module that are its own, with what was recorded about them."""
    entries = MODULES[name].items()
    own = {n: e for n, e in entries if e["kind"] in ("class", "function", "constant")}
    return {n: e for n, e in own.items() if n not in ABSENT.get(name, ())}


def differences(function, recorded, label):
    """Lines about arguments that a caller of the original would miss."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return [f"{label} is not callable"]
    names = [a["name"] for a in recorded if not a["name"].startswith("*")]
    found = []
    for given in ({"args": names, "kwargs": {}}, {"args": (), "kwargs": dict.fromkeys(names)}):
        try:
            signature.bind(*given["args"], **given["kwargs"])
        except TypeError as error:
            found.append(f"{label}: {error}")
    for argument in recorded:
        ours = signature.parameters.get(argument["name"])
        if "default" in argument and ours is not None and repr(ours.default) != argument["default"]:
            found.append(f"{label}: {argument['name']} is {ours.default!r}")
    return found


def without_self(arguments):
    return [a for a in arguments if a["name"] != "self"]


@modules
def test_functions_and_classes_take_the_originals_arguments(name):
    module, found = importlib.import_module(f"mrcnn.{name}"), []
    for attribute, entry in public(name).items():
        ours = getattr(module, attribute)
        if entry["kind"] == "function":
            found += differences(ours, entry["args"], attribute)
        elif entry["kind"] == "class":
            methods = {m: a for m, a in entry["methods"].items() if m not in KERAS_OWN}
            found += differences(ours, without_self(methods.pop("__init__", [])), attribute)
            if not isinstance(ours, type):
                continue  # ParallelModel is a function here: it gives the model that it gets
            for method, arguments in methods.items():
                member = inspect.getattr_static(ours, method)
                if not isinstance(member, property):
                    found += differences(getattr(ours, method), arguments, f"{attribute}.{method}")
    assert found == []


@modules
def test_star_imports_give_the_originals_names(name):
    space = {}
    exec(f"from mrcnn.{name} import *", space)
    assert set(public(name)) - set(space) == set()


def test_config_has_the_originals_values():
    from mrcnn.config import Config

    for name, recorded in public("config")["Config"]["attributes"].items():
        expected = eval(recorded, {"np": np})
        np.testing.assert_equal(getattr(Config, name), expected, err_msg=name)
