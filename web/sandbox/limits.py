"""A process with limits on what it may use becomes the script that its arguments name.

`python -I limits.py MEMORY SECONDS OUTPUT SCRIPT ARGUMENT...`: bytes of memory, seconds of CPU,
bytes of each file that it writes. Started by `process.py`; imports nothing of this project.
"""

from __future__ import annotations

import os
import resource
import runpy
import sys


def _limit(memory: int, seconds: int, output: int) -> None:
    os.nice(10)  # tokens go first
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (output, output))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    _limit(*map(int, sys.argv[1:4]))
    del sys.argv[:4]
    runpy.run_path(sys.argv[0], run_name="__main__")
