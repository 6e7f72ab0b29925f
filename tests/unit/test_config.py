"""Every setting is one field of Config: its flag, its variable, its range and its words, also in
docs/server.md. `python tests/unit/test_config.py` writes the table there."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from web import config
from web.cli import _parser, flags
from web.config import Config, SettingError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "server.md"
TABLE = re.compile(r"(?<=written by tests/unit/test_config.py -->\n).*?(?=<!-- end)", re.S)

SETTINGS = {one.name: one for one in fields(Config)}
# A value of each kind that is not the default, as text.
OTHER = {
    "state_type": "bf16",
    "prompt_format": "runner",
    "cors_origin": "https://chat.example.com",
    "host": "127.0.0.2",
}


def other(name: str) -> str:
    one = SETTINGS[name]
    if name in OTHER:
        return OTHER[name]
    if config.kind_of(one) == "bool":
        return "0" if one.default else "1"
    if (bounds := config.setting_of(one).range) is not None:
        return str(bounds[0] if one.default == bounds[1] else bounds[1])
    return f"some-{name}"


def from_flags(*words: str) -> Config:
    return flags.config_of(_parser().parse_args(["serve", *words]))


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(config.variable(name), raising=False)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_has_a_flag_a_variable_and_words(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, text = SETTINGS[name], other(name)
    by_variable = Config.from_environment({config.variable(name): text})
    assert getattr(by_variable, name) != getattr(Config(), name)
    if config.kind_of(one) == "bool":
        yes, no = config.flag(name), config.flag(f"no_{name}")
        words = [yes] if text == "1" else [no]
    else:
        words = [config.flag(name), text]
    assert from_flags(*words) == by_variable
    # Flags win.
    monkeypatch.setenv(config.variable(name), text)
    assert from_flags() == by_variable
    if config.kind_of(one) == "bool":
        words = [no] if text == "1" else [yes]
        assert from_flags(*words) == Config()
    assert config.setting_of(one).help


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("max_batch", "0", "must be between 1 and 4096, not 0"),
        ("step_ms", "nan", "must be between 1 and 60000, not nan"),
        ("state_type", "fp8", "must be one of fp32, fp16, bf16, not 'fp8'"),
        ("public_name", "https://x", "must be a name such as llm.example.com: 'https://x'"),
        ("cors_origin", "example", "must be an origin such as https://chat.example.com"),
    ],
)
def test_errors_name_the_flag_or_the_variable(name: str, text: str, problem: str) -> None:
    with pytest.raises(SettingError) as flag:
        from_flags(config.flag(name), text)
    assert str(flag.value).startswith(f"--{name.replace('_', '-')} {problem}")
    with pytest.raises(SettingError) as variable:
        Config.from_environment({f"RWKV_NATIVE_{name.upper()}": text})
    assert str(variable.value).startswith(f"RWKV_NATIVE_{name.upper()} {problem}")


def table() -> str:
    """The settings as docs/server.md has them."""
    rows = ""
    group = ""
    for one in SETTINGS.values():
        setting = config.setting_of(one)
        if setting.group != group:
            group = setting.group
            rows += f"\n| {group} | | |\n|---|---|---|\n"
        unit = f" {setting.unit}" if setting.unit else ""
        default = config.default_of(one)
        rows += f"| `{config.flag(one.name)}{unit}` | {setting.help} | {default} |\n"
    return rows.replace("*", r"\*") + "\n"


def test_the_manual_has_the_table() -> None:
    found = TABLE.search(PAGE.read_text())
    assert found and found[0] == table(), "run: python tests/unit/test_config.py"


def test_a_misspelt_variable_is_refused() -> None:
    for wrong, right in (("PRT", "PORT"), ("API_KEYS", "API_KEY"), ("DEPLOI", "DEPLOY")):
        with pytest.raises(SettingError, match=rf"RWKV_NATIVE_{wrong} .* RWKV_NATIVE_{right}\?$"):
            Config.from_environment({f"RWKV_NATIVE_{wrong}": "1"})
    # What Kubernetes tells of a service called rwkv-native, and what is no setting of a server.
    others = ("SERVICE_HOST", "SERVICE_PORT", "PORT_8000_TCP", "PORT_8000_TCP_ADDR", "DEBUG")
    assert Config.from_environment({f"RWKV_NATIVE_{n}": "x" for n in others}) == Config()


if __name__ == "__main__":
    PAGE.write_text(TABLE.sub(lambda _: table(), PAGE.read_text()))
