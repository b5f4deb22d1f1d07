"""The way of the data from the command to the first gradient step stays short."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "training" / "data_path.py"


@pytest.mark.slow
def test_the_data_pass_through_few_modules_and_seldom_come_back():
    command = [sys.executable, str(SCRIPT), "--quick", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["way"][0] == "toolkit.commands.train"
    # As far as the gradient step, and no further.
    assert "training.fit.train_step" in figures["way"][-3:]
    assert figures["modules"] <= 12
    assert figures["returns"] <= 10
