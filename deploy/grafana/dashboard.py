"""Write dashboard.json, which Grafana imports: run it after a change, and commit both.

python3 deploy/grafana/dashboard.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

PLACE = Path(__file__).with_name("dashboard.json")
SCHEMA_VERSION = 39  # Grafana 10.4 and newer
UID = "taskpool-dealer"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
HERE = 'job=~"$job",instance=~"$instance"'
WIDTH, COLUMNS, HEIGHT, ROW_HEIGHT = 8, 3, 8, 1


class Panel(NamedTuple):
    """`queries` are (legend, PromQL); in them, HERE stands for the labels chosen above."""

    title: str
    description: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "timeseries"
    stacked: bool = False


def quantiles(histogram: str, by: str = "le") -> tuple[tuple[str, str], ...]:
    """The median and the 99th percentile."""
    rate = f"sum by ({by}) (rate({histogram}_bucket{{HERE}}[$__rate_interval]))"
    legend = "".join(f" {{{{{label}}}}}" for label in by.split(", ") if label != "le")
    return tuple((f"{name}{legend}", f"histogram_quantile({q}, {rate})") for name, q in (("p50", 0.5), ("p99", 0.99)))


def rate(metric: str, by: str, where: str = "HERE") -> tuple[tuple[str, str], ...]:
    legend = " ".join(f"{{{{{label}}}}}" for label in by.split(", "))
    return ((legend, f"sum by ({by}) (rate({metric}{{{where}}}[$__rate_interval]))"),)


ROWS: dict[str, list[Panel]] = {
    "At a glance": [
        Panel(
            "Ready",
            "1: a worker is ready and the dealer does not drain.",
            "short",
            (("{{instance}}", "taskpool_dealer_ready{HERE}"),),
            "stat",
        ),
        Panel(
            "In quarantine",
            "Jobs that crashed too often and wait for a person: tp-generator quarantine list.",
            "short",
            (("{{instance}}", "taskpool_jobs_quarantined{HERE}"),),
            "stat",
        ),
        Panel(
            "Oldest queued job",
            "How long the job that has waited longest has waited.",
            "s",
            (("{{instance}}", "time() - taskpool_oldest_queued_job_timestamp_seconds{HERE}"),),
            "stat",
        ),
    ],
    "Jobs": [
        Panel(
            "Jobs by state",
            "Jobs without an outcome.",
            "short",
            (("{{state}}", "sum by (state) (taskpool_jobs{HERE})"),),
            stacked=True,
        ),
        Panel(
            "Taken in and finished",
            "Jobs accepted, and runs that got their outcome, a second.",
            "ops",
            (
                ("accepted", "sum(rate(taskpool_jobs_accepted_total{HERE}[$__rate_interval]))"),
                *rate("taskpool_jobs_finished_total", "outcome"),
            ),
        ),
        Panel(
            "Attempts by end",
            "Attempts that ended, a second. Crashed: killed by a signal, or the worker ended without a report.",
            "ops",
            rate("taskpool_attempts_total", "end"),
            stacked=True,
        ),
        Panel(
            "Wait",
            "From a job's acceptance until it is first sent, by kind.",
            "s",
            quantiles("taskpool_job_wait_seconds", "le, kind"),
        ),
        Panel("Run time", "How long attempts ran, by kind.", "s", quantiles("taskpool_job_run_seconds", "le, kind")),
        Panel(
            "CPU of jobs",
            "CPUs that attempts kept busy, counted when they end, by kind.",
            "short",
            rate("taskpool_job_cpu_seconds_total", "kind"),
            stacked=True,
        ),
        Panel(
            "Refused and retried",
            "Submissions refused by reason, and attempts that are tried again, a second.",
            "ops",
            (
                *(("refused {{reason}}", q) for _, q in rate("taskpool_submissions_refused_total", "reason")),
                *(("retried {{end}}", q) for _, q in rate("taskpool_retries_total", "end")),
            ),
        ),
        Panel(
            "Readers",
            "Generators connected, batches in memory, and outcomes their readers have not acknowledged.",
            "short",
            (
                ("generators", "sum(taskpool_generators{HERE})"),
                ("batches", "sum(taskpool_batches{HERE})"),
                ("unread outcomes", "sum(taskpool_outcomes_unread{HERE})"),
            ),
        ),
        Panel(
            "Longest running attempt",
            "For how long it has been running.",
            "s",
            (("{{instance}}", "time() - taskpool_oldest_running_job_timestamp_seconds{HERE}"),),
        ),
    ],
    "Workers": [
        Panel(
            "Workers by state",
            "Spare: ready without a slot. Wanted does not count spares.",
            "short",
            (
                ("{{state}}", "sum by (state) (taskpool_workers{HERE})"),
                ("wanted", "sum(taskpool_workers_wanted{HERE})"),
            ),
        ),
        Panel(
            "Exits by reason and signal",
            "Worker processes that ended, a second. Boot: before they were ready.",
            "ops",
            rate("taskpool_worker_exits_total", "reason, signal"),
        ),
        Panel(
            "Recovery",
            "From a worker's death seen until its job is sent again.",
            "s",
            quantiles("taskpool_recovery_seconds"),
        ),
        Panel("Boot", "From a worker's start until it is ready.", "s", quantiles("taskpool_worker_boot_seconds")),
        Panel(
            "Memory by slot",
            "Resident memory of workers, without the programs they have started.",
            "bytes",
            (("{{instance}} slot {{slot}}", "taskpool_worker_resident_memory_bytes{HERE}"),),
            stacked=True,
        ),
        Panel(
            "CPU by slot",
            "CPUs that workers and what they waited for kept busy.",
            "short",
            rate("taskpool_worker_cpu_seconds_total", "instance, slot"),
            stacked=True,
        ),
    ],
    "Dealer": [
        Panel(
            "Loop busy",
            "Share of time in which the loop works rather than waits. Near 1 it is the bottleneck.",
            "percentunit",
            (("{{instance}}", "rate(taskpool_loop_busy_seconds_total{HERE}[$__rate_interval])"),),
        ),
        Panel(
            "Loop lag",
            "How long what happened may have waited for its turn.",
            "s",
            quantiles("taskpool_loop_lag_seconds"),
        ),
        Panel(
            "Queues",
            "How full the dealer's kernel queues are, and how often one was found full, a second.",
            "percentunit",
            (
                (
                    "{{queue}}",
                    "max by (queue) (taskpool_queue_messages{HERE} / taskpool_queue_capacity_messages{HERE})",
                ),
                ("full {{queue}}", "sum by (queue) (rate(taskpool_queue_full_total{HERE}[$__rate_interval]))"),
            ),
        ),
        Panel(
            "Journal commits",
            "How long transactions took until they were on the disk. Every acceptance waits for one.",
            "s",
            quantiles("taskpool_journal_commit_seconds"),
        ),
        Panel(
            "Journal size",
            "On the disk, write-ahead log included.",
            "bytes",
            (("{{instance}}", "taskpool_journal_bytes{HERE}"),),
        ),
        Panel(
            "Memory of the dealer",
            "Resident memory, and what of jobs and outcomes in it waits to be stored.",
            "bytes",
            (
                ("{{instance}}", "process_resident_memory_bytes{HERE}"),
                ("{{instance}} waits to be stored", "taskpool_unstored_bytes{HERE}"),
            ),
        ),
        Panel(
            "Warnings and errors",
            "Log messages a second, by level, and lines that standard error did not take.",
            "ops",
            (
                *rate("taskpool_log_messages_total", "level", 'HERE,level=~"warning|error"'),
                ("dropped", "sum(rate(taskpool_log_lines_dropped_total{HERE}[$__rate_interval]))"),
            ),
        ),
        Panel(
            "Lives",
            "Each step is a start of the dealer.",
            "short",
            (("{{instance}}", "taskpool_dealer_epoch{HERE}"),),
        ),
        Panel(
            "Cost of a scrape",
            "How long collecting the page took.",
            "s",
            (("{{instance}}", "taskpool_collector_duration_seconds{HERE}"),),
        ),
    ],
}


def dashboard() -> dict[str, Any]:
    return {
        "uid": UID,
        "title": "taskpool",
        "description": "Pools of crash-proof jobs: what waits, what runs, what crashed, and what the dealer does.",
        "tags": ["taskpool"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": list(_variables())},
        "panels": list(_panels()),
    }


def _variables() -> Iterator[dict[str, Any]]:
    yield {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
        "hide": 0,
    }
    for name, where in (("job", ""), ("instance", '{job=~"$job"}')):
        query = f"label_values(taskpool_build_info{where}, {name})"
        yield {
            "name": name,
            "label": name.title(),
            "type": "query",
            "datasource": DATASOURCE,
            "definition": query,
            "query": {"query": query, "refId": name},
            "refresh": 2,
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".+",
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
            "hide": 0,
        }


def _panels() -> Iterator[dict[str, Any]]:
    number, top = 0, 0
    for title, panels in ROWS.items():
        number += 1
        place = {"x": 0, "y": top, "w": WIDTH * COLUMNS, "h": ROW_HEIGHT}
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
        top += ROW_HEIGHT
        for index, panel in enumerate(panels):
            number += 1
            row, column = divmod(index, COLUMNS)
            place = {"x": column * WIDTH, "y": top + row * HEIGHT, "w": WIDTH, "h": HEIGHT}
            yield _panel(number, panel, place)
        top += -(-len(panels) // COLUMNS) * HEIGHT


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    custom = {"fillOpacity": 20 if panel.stacked else 0, "stacking": {"mode": "normal" if panel.stacked else "none"}}
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    options: dict[str, Any] = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
    if panel.kind == "timeseries":
        defaults["custom"] = custom
    else:
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "textMode": "auto", "colorMode": "value"}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": DATASOURCE,
                "expr": query.replace("HERE", HERE),
                "legendFormat": legend,
            }
            for index, (legend, query) in enumerate(panel.queries)
        ],
    }


def rendered() -> str:
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    PLACE.write_text(rendered())
