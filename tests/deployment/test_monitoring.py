"""deploy/prometheus.yml and alerts.yml: they ask for what the server says."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from serving import serving

ABOUT_THE_SCRAPE = {"up"}


def test_prometheus_reads_what_nginx_serves(deploy: Path) -> None:
    config = yaml.safe_load((deploy / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    assert f"location ~ ^{job['metrics_path']}/?$ {{" in (deploy / "nginx.conf").read_text()
    for file in config["rule_files"]:
        assert (deploy / file).is_file()


def test_alerts_are_about_metrics_that_exist(deploy: Path) -> None:
    (group,) = yaml.safe_load((deploy / "alerts.yml").read_text())["groups"]
    (job,) = yaml.safe_load((deploy / "prometheus.yml").read_text())["scrape_configs"]
    with serving() as server:
        server.post("/completions", {"prompt": "x", "max_tokens": 2})
        known = set(
            re.findall(r"^# TYPE (\S+)", server.request("GET", "/metrics")[2].decode(), re.M)
        )
    assert known
    for rule in group["rules"]:
        assert rule["for"] and rule["annotations"]["summary"]
        asked = set(re.findall(r"\b(rwkv:\w+|http_\w+|up)\b", rule["expr"])) - ABOUT_THE_SCRAPE
        plain = {re.sub(r"_bucket$", "", name) for name in asked}
        assert plain <= known, rule["alert"]
        assert all(name == job["job_name"] for name in re.findall(r'job="([^"]*)"', rule["expr"]))
