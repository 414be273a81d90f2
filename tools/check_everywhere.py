"""Do the committed outputs come out again on other machines?

python tools/check_everywhere.py [NOTEBOOK ...]

Other processors, thread counts and math libraries round the last bit of a sum differently, and
training amplifies it. This runs the notebooks under strict nbval in settings that do so on one
machine, and fails if any committed output changes.
"""

import os
import subprocess
import sys
import time

SETTINGS = (
    {"OMP_NUM_THREADS": "1"},
    {"OMP_NUM_THREADS": "2"},
    {"OMP_NUM_THREADS": "1", "ATEN_CPU_CAPABILITY": "default"},
    {"OMP_NUM_THREADS": "1", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    {"OMP_NUM_THREADS": "1", "MKL_CBWR": "COMPATIBLE"},
    {"OMP_NUM_THREADS": "2", "MKL_CBWR": "COMPATIBLE", "ATEN_CPU_CAPABILITY": "default"},
)


def main(notebooks: list[str]) -> str | None:
    """Run each setting; return what went wrong, if anything did."""
    failed = []
    for setting in SETTINGS:
        name = " ".join(f"{key}={value}" for key, value in setting.items())
        workers = "2" if setting["OMP_NUM_THREADS"] == "1" else "0"  # never more threads than cores
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-n", workers, "--dist", "loadscope"]
            + ["--nbval-cell-timeout=600"]  # some settings are slow; here it is values that count
            + (notebooks or ["notebooks"]),
            env=os.environ | setting,
            capture_output=True,
            text=True,
        )
        seconds = time.perf_counter() - start
        same = done.returncode == 0
        if done.returncode not in (0, 1):
            return f"pytest did not run the notebooks: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        print(f"{name}: {'same' if same else 'DIFFERS'}, {seconds:.0f} s", flush=True)
        if not same:
            failed.append(name)
            print(done.stdout[-4000:], flush=True)
    return f"outputs differ with: {'; '.join(failed)}" if failed else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
