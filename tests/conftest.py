import pytest
import torch
from hypothesis import settings

# No deadline: the first call of a torch operation is slow, and a busy machine is slower.
# The same examples every time: a red test must be red again.
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
