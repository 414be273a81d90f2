"""python -m saetools: is everything installed that the notebooks need?"""

import sys

from saetools.tutorial.environment import check_environment, missing_packages

if __name__ == "__main__":
    print(check_environment())
    sys.exit(bool(missing_packages()))
