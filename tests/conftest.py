import pytest
import torch
from hypothesis import settings
from notebook_tools import LONGEST

# No deadline: the first call of a torch operation is slow, and a busy machine is slower.
# The same examples every time: a red test must be red again.
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")


def pytest_collection_modifyitems(items):
    places = {file: place for place, file in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
