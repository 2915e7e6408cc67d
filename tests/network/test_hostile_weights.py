"""All hostile weights files, loaded into models by a process of their own."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.helpers import ROOT
from tests.helpers.hostile_weights import cases

pytestmark = [pytest.mark.tf, pytest.mark.slow]


def test_each_is_loaded_or_refused_in_little_time_and_memory(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-m", "tests.helpers.hostile_weights", str(tmp_path)],
        cwd=ROOT, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True,
        timeout=600,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    outcomes = {o["name"]: o for o in map(json.loads, ended.stdout.splitlines())}
    made = list(cases(tmp_path / "victim"))
    assert len(outcomes) == len(made) > 400
    ends = {"": ["loaded"], None: ["loaded", "refused"]}
    wrong = [
        o for c in made if (o := outcomes[c.name])["end"] not in ends.get(c.message, ["refused"])
    ]
    assert not wrong
    told = [
        o
        for c in made
        if c.message and not re.search(c.message, (o := outcomes[c.name])["message"], re.S)
    ]
    assert not told
    # Nothing of the other file, nothing for a terminal to obey, no essays.
    for outcome in outcomes.values():
        text = outcome["message"] + outcome["warned"]
        assert "secret" not in text and text.replace("\n", "").isprintable() and len(text) < 4000
    assert max(o["peak_mb"] for o in outcomes.values()) < 2000
    assert max(o["seconds"] for o in outcomes.values()) < 30
    damaged = [o["end"] for n, o in outcomes.items() if n.startswith("damage")]
    assert damaged.count("refused") > 20 < damaged.count("loaded")
