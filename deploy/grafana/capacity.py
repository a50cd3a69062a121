"""The dashboard of capacity: is everything there, and what runs out first."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from deploy.grafana.panels import Limits, Query, lines, number, page, rate, row, rows

_HERE = 'instance=~"$instance"'
_OURS = f'job=~"eyebright-(embedder|index)",{_HERE}'


def dashboard() -> Dashboard:
    """State, processor, memory, disk and files of both services."""
    free = f"eyebright_index_disk_free_bytes{{{_HERE}}}"
    size = f"eyebright_index_disk_size_bytes{{{_HERE}}}"
    later = f"clamp_min(predict_linear({free}[6h], 3 * 86400), 0)"
    return (
        page(
            "capacity",
            "capacity",
            "Whether everything is there, and what runs out first.",
            ("instance", "eyebright_ready"),
        )
        .with_row(row("Is everything there?"))
        .with_panel(
            number(
                "Ready",
                "1 while a service wants calls; nothing when it is gone.",
                "none",
                Query(f"sum by (service) (eyebright_ready{{{_HERE}}})", "{{service}}"),
                limits=Limits(1, 0.5),
            )
        )
        .with_panel(
            lines(
                "Alerts that fire",
                "What to do about each is in docs/operations.md.",
                "none",
                [
                    Query(
                        'count by (alertname) (ALERTS{alertname=~"Eyebright.+",alertstate="firing"}) '
                        'or label_replace(vector(0), "alertname", "none", "", "")',
                        "{{alertname}}",
                    )
                ],
                stacked=True,
            )
        )
        .with_panel(
            lines(
                "Time since the start",
                "",
                "s",
                [Query(f"time() - process_start_time_seconds{{{_OURS}}}", "{{job}}, {{instance}}")],
                width=10,
            )
        )
        .with_panel(
            rows(
                "What runs where",
                "simd says which instructions the libraries use on this machine.",
                Query(f"eyebright_build_info{{{_HERE}}}", ""),
            )
        )
        .with_row(row("Processor and memory"))
        .with_panel(
            lines(
                "Cores in use",
                "Of one process.",
                "none",
                [Query(rate("process_cpu_seconds_total", _OURS, "job, instance"), "{{job}}, {{instance}}")],
            )
        )
        .with_panel(
            lines(
                "Memory",
                "anonymous is the process's own; file is mapped segments, which the system takes back at need.",
                "bytes",
                [Query(f"eyebright_memory_resident_bytes{{{_HERE}}}", "{{job}}, {{kind}}")],
                stacked=True,
            )
        )
        .with_panel(
            lines(
                "Share of the memory that it may hold",
                "Past 1 the system kills the process.",
                "percentunit",
                [
                    Query(
                        f'eyebright_memory_resident_bytes{{{_HERE},kind="anonymous"}} / ignoring (kind) '
                        f"eyebright_memory_limit_bytes{{{_HERE}}}",
                        "{{job}}, {{instance}}",
                    )
                ],
                limits=Limits(0.75, 0.9),
            )
        )
        .with_row(row("Disk of the index"))
        .with_panel(
            lines(
                "Bytes on disk",
                "By kind.",
                "bytes",
                [Query(f"sum by (kind) (eyebright_index_disk_bytes{{{_HERE}}})", "{{kind}}")],
                stacked=True,
            )
        )
        .with_panel(
            lines(
                "Free, now and in three days",
                "If it goes on as in the last six hours; growth is not foretold.",
                "bytes",
                [
                    Query(free, "{{instance}}, now"),
                    Query(f"max by (instance) ({later} < {free} or {free})", "{{instance}}, in three days"),
                ],
            )
        )
        .with_panel(
            lines(
                "Free share",
                "Below a tenth it is a page.",
                "percentunit",
                [Query(f"{free} / {size}", "{{instance}}")],
                highest=1,
                limits=Limits(0.25, 0.1),
            )
        )
        .with_row(row("Calls and connections"))
        .with_panel(
            lines(
                "Calls",
                "A second, by service.",
                "reqps",
                [Query(rate("eyebright_rpc_latency_seconds_count", _HERE, "service"), "{{service}}")],
            )
        )
        .with_panel(
            lines(
                "Calls under way",
                "",
                "none",
                [Query(f"sum by (service, method) (eyebright_rpc_in_flight{{{_HERE}}})", "{{method}}")],
                stacked=True,
            )
        )
        .with_panel(
            lines(
                "Open files",
                "Share of those that the process may have; connections and segments are among them.",
                "percentunit",
                [Query(f"process_open_fds{{{_OURS}}} / process_max_fds{{{_OURS}}}", "{{job}}, {{instance}}")],
                limits=Limits(0.5, 0.8),
            )
        )
    )
