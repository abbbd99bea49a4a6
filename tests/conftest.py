"""For all tests. Its being here also puts this folder on sys.path, so that those in subfolders can import `processes`."""

import pytest
from hypothesis import HealthCheck, settings

from gander import cli

# The same examples everywhere, however busy the machine.
settings.register_profile("gander", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("gander")


@pytest.fixture
def say(capsys):
    """Run one command: (exit code, stdout, stderr)."""

    def run(line, *more):
        code = cli.main([*line.split(), *map(str, more)])
        out = capsys.readouterr()
        return code, out.out, out.err

    return run
