"""schemathesis against /openapi.json: requests made from the document, valid and not, and no answer
that it does not describe. What ends or changes the server for the others runs on one of its own.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from serving import SOAK, Server, serving

from web.midi import sound
from web.transport.static_files import REDOC, SWAGGER_UI, files

DESCRIBED = "status_code_conformance,content_type_conformance,response_schema_conformance"
CHANGES = ("/switch-model", "/update-config")
# Coverage, which tries every bound of every field, takes most of the time.
PHASES = "examples,coverage,fuzzing" if SOAK else "examples,fuzzing"


def explored(server: Server, folder: Path, checks: str, *which: str) -> int:
    """How many operations were tried, none of them with a complaint."""
    done = subprocess.run(
        [
            *(Path(sys.executable).with_name("st"), "run", f"{server.url}/openapi.json"),
            *("--checks", checks, "--phases", PHASES, *which),
            *("--max-examples", "500" if SOAK else "3", "--request-timeout", "60"),
        ],
        cwd=folder,  # where it keeps what failed
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + server.log()[-2000:]
    assert server.process.poll() is None and "SIGSEGV" not in server.log()
    tried = re.search(r"Tested: (\d+)", done.stdout)
    assert tried
    return int(tried[1])


@pytest.mark.timeout(7200 if SOAK else 300)
def test_every_answer_is_described(tmp_path: Path) -> None:
    missing = () if {REDOC, SWAGGER_UI} <= files().keys() else ("/docs", "/redoc")  # 501 then
    missing += ("/midi-to-wav", "/text-to-wav") if sound.missing() else ()
    others = [word for path in (*CHANGES, "/exit", *missing) for word in ("--exclude-path", path)]
    with serving(access_log=0, max_tokens=64, workspace=tmp_path) as server:
        assert explored(server, tmp_path, f"not_a_server_error,{DESCRIBED}", *others) > 15


@pytest.mark.timeout(7200 if SOAK else 300)
def test_every_answer_to_a_change_is_described(tmp_path: Path) -> None:
    # A model that cannot be loaded may be the server's fault: too little memory.
    only = [word for path in CHANGES for word in ("--include-path", path)]
    with serving(access_log=0) as server:
        assert explored(server, tmp_path, DESCRIBED, *only) == len(CHANGES)
