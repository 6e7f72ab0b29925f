"""The flags that commands share: those of settings, made of `Config`, and those of sampling."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import Field, fields
from typing import Any

from web import config
from web.config import Config

SAMPLING = (
    *("max_tokens", "temperature", "top_p", "top_k", "min_p"),
    *("presence_penalty", "frequency_penalty", "penalty_decay", "seed"),
)
_ADAPTERS = ("adapter", "adapter_alpha", "adapter_init")


def settings(*groups: str) -> list[Field[Any]]:
    """The settings of these groups, or of all."""
    return [one for one in fields(Config) if not groups or config.setting_of(one).group in groups]


def add_settings(parser: argparse.ArgumentParser, *groups: str) -> None:
    """A flag for each setting of these groups, or of all. What is not given stays None, so that the
    environment and the default hold."""
    made: dict[str, argparse._ArgumentGroup] = {}
    for one in settings(*groups):
        title = config.setting_of(one).group
        if title not in made:
            made[title] = parser.add_argument_group(title)
        _add(made[title], one)


def add_adapter(parser: argparse.ArgumentParser) -> None:
    for one in settings(config.MODEL):
        if one.name in _ADAPTERS:
            _add(parser, one)


def add_sampling(parser: argparse.ArgumentParser, state: bool = False) -> None:
    """The options of one answer; `state`: with the state from which it starts."""
    group = parser.add_argument_group("sampling (default: as the model's family has it)")
    group.add_argument("--max-tokens", type=int, metavar="TOKENS", help="longest answer")
    for one in settings(config.REQUESTS):
        if one.name in SAMPLING or (state and one.name == "state"):
            _add(group, one)
    group.add_argument(
        "--min-p", type=float, metavar="P", help="drop tokens below this share of the best; 0: none"
    )
    group.add_argument("--seed", type=int, metavar="N", help="random seed (default: a new one)")


def _add(group: argparse._ActionsContainer, one: Field[Any]) -> None:
    setting = config.setting_of(one)
    default = config.default_of(one)
    text = setting.help + (f" (default: {default})" if default else "")
    how: dict[str, Any] = {"dest": one.name, "help": text.replace("%", "%%")}
    if config.kind_of(one) == "bool":
        how["action"] = argparse.BooleanOptionalAction
    else:
        how["metavar"] = setting.unit
        if setting.separator:
            how["action"] = "append"
        else:
            how["type"] = _reader(one)
    group.add_argument(config.flag(one.name), **how)


def _reader(one: Field[Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return config.parse(one, text)
        except ValueError as problem:
            raise argparse.ArgumentTypeError(str(problem)) from None

    return read


def config_of(args: argparse.Namespace, *groups: str) -> Config:
    """What the flags of these groups say, or of all, over the environment."""
    return Config.from_environment(**{one.name: vars(args)[one.name] for one in settings(*groups)})


def adapter_config(args: argparse.Namespace) -> Config:
    """What the flags of adapters say, and nothing else does."""
    return Config.from_environment({}, **{name: vars(args)[name] for name in _ADAPTERS})


def name_of(args: argparse.Namespace, setting: str) -> str:
    """Where the value of a setting comes from: its flag or its variable."""
    given = vars(args)[setting] is not None
    return config.flag(setting) if given else config.variable(setting)
