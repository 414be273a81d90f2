"""What `import saetools` costs beyond `import torch`, measured side by side.

python benchmarks/import_time.py [RUNS]
"""

import statistics
import subprocess
import sys
import time


def seconds(module: str) -> float:
    """Wall-clock seconds of a fresh interpreter that imports `module`."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
    return time.perf_counter() - start


def main(runs: int = 10) -> None:
    """Print both medians and the median of the ratios, pair by pair."""
    seconds("torch"), seconds("saetools")  # once each for the disk's cache
    pairs = [(seconds("torch"), seconds("saetools")) for _ in range(runs)]
    torch_s, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"import torch {torch_s:.2f} s, import saetools {ours:.2f} s, ratio {ratio:.3f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
