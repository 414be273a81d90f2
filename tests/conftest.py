import pytest
import torch
from hypothesis import settings

# No deadline: the first call of a torch operation is slow, and a busy machine is slower.
# The same examples every time: a red test must be red again.
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")

# The files that take longest, in that order. With --dist loadscope xdist hands out whole files, and
# with --no-loadscope-reorder in the order of collection; by itself it begins with those of the most
# items, and a notebook has fewer than a file of quick tests. With the long ones first, what is left
# for the end is short, and no worker waits for the other.
LONGEST = (
    "notebooks/08_does_it_hold_with_thousands_of_latents.ipynb",
    "notebooks/05_weight_initialisation.ipynb",
    "notebooks/06_all_together.ipynb",
    "notebooks/07_which_frequency.ipynb",
    "notebooks/09_where_else_does_a_count_lose_its_gradient.ipynb",
    "tests/notebooks/test_teeth.py",
    "notebooks/03_soft_activations.ipynb",
    "tests/reuse/test_distributed.py",
    "notebooks/04_keeping_the_frequency_off_0_and_1.ipynb",
    "notebooks/01_the_penalty_that_does_nothing.ipynb",
    "notebooks/00_start_here.ipynb",
    "notebooks/02_where_the_gradient_goes.ipynb",
    "tests/site/test_pages.py",
    "tests/project/test_recipes_page.py",
    "tests/training/test_ensemble.py",
    "tests/project/test_readme.py",
    "tests/reuse/test_sklearn.py",
    "tests/project/test_tools.py",
)


def pytest_collection_modifyitems(items):
    places = {file: place for place, file in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
