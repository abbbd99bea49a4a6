import pytest
from sites import make_run, served

from gander.serving import Networks


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("serving") / "a run", attention="article", attention_at=(8,))


@pytest.fixture(scope="module")
def site(run):
    with served(Networks(run, standing=1)) as one:
        yield one
