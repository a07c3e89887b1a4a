"""What a run says about what it ran on."""

import json
import platform

import torch

from roundel.core.environment import describe_environment
from roundel.core.runfiles import SCHEMA_VERSION


def test_everything_that_bits_can_depend_on_is_written_down():
    said = describe_environment("run", {"threads": 1}, {"pieces": ["task"]})
    assert (said["schema_version"], said["run_id"]) == (SCHEMA_VERSION, "run")
    assert (said["engine"], said["pieces"]) == ({"threads": 1}, ["task"])
    assert (said["torch"], said["python"]) == (torch.__version__, platform.python_version())
    assert said["cpu_capability"]
    assert json.loads(json.dumps(said)) == said
