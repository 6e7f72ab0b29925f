"""docs/deployment.md names files, settings and flags that exist."""

from __future__ import annotations

import re

from serving import ROOT

from web.cli import _parser
from web.config import PREFIX, Config

DOCUMENT = (ROOT / "docs" / "deployment.md").read_text()


def test_links_lead_to_files_and_every_file_is_named() -> None:
    links = re.findall(r"\]\(\.\./(deploy/[^)]+)\)", DOCUMENT)
    assert all((ROOT / link).exists() for link in links)
    assert {path.name for path in (ROOT / "deploy").iterdir()} == {
        link.removeprefix("deploy/") for link in links
    }


def test_variables_are_settings() -> None:
    settings = Config(model="x", tokenizer="x").to_environment().keys()
    short = {PREFIX + name for name in re.findall(r"`_([A-Z_]+)`", DOCUMENT)}
    named = set(re.findall(rf"{PREFIX}[A-Z_]+", DOCUMENT)) | short
    assert len(named) > 10 and named <= settings


def test_flags_are_those_of_serve() -> None:
    for flag in re.findall(r"`(--[a-z-]+)`", DOCUMENT):
        if flag not in ("--memory", "--cpus"):  # docker's
            words = [flag] if flag in ("--log-prompts", "--insecure") else [flag, "1"]
            assert _parser().parse_args(["serve", *words]).run
