"""The dashboard of the index: searches, writes, and the work between memory and disk."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from deploy.grafana.panels import WINDOW, Limits, Query, lines, mean, page, quantile, rate, row

_HERE = 'instance=~"$instance"'
_STAGES = "eyebright_index_stage_latency_seconds"
_RPC_COUNT = "eyebright_rpc_latency_seconds_count"


def _stage(*names: str) -> str:
    return f'{_HERE},stage=~"{"|".join(names)}"'


def dashboard() -> Dashboard:
    """What the index does for callers, and what it does in the background."""
    scanned = rate("eyebright_index_rows_scanned_total", _HERE, "instance")
    searches = rate(_RPC_COUNT, f'{_HERE},method="Search",code="OK"', "instance")
    waits = _stage("queue")
    dead = f"sum by (instance) (eyebright_index_tombstones{{{_HERE}}})"
    alive = f"sum by (instance) (eyebright_index_records{{{_HERE}}})"
    return (
        page(
            "index",
            "index",
            "Searches, writes, and the work between memory and disk.",
            ("instance", "eyebright_index_collections"),
        )
        .with_row(row("Searches"))
        .with_panel(
            lines(
                "Calls",
                "A second, by method.",
                "reqps",
                [Query(rate(_RPC_COUNT, f'{_HERE},service="eyebright.index.v1.IndexService"', "method"), "{{method}}")],
                width=6,
                stacked=True,
            )
        )
        .with_panel(
            lines(
                "Vectors compared by a search",
                "On average. Codes are compared in an exact scan's place, and count the same.",
                "short",
                [Query(f"{scanned} / {searches}", "{{instance}}")],
                width=6,
            )
        )
        .with_panel(
            lines(
                "What waits",
                "Searches and other requests for a thread, searches for a core, writes for the commit before theirs.",
                "none",
                [Query(f"sum by (queue) (eyebright_index_queued{{{_HERE}}})", "{{queue}}")],
                width=6,
                stacked=True,
            )
        )
        .with_panel(
            lines(
                "Wait for a thread",
                "From 0.1 s on average it is an alert.",
                "s",
                [
                    Query(f"eyebright:index_wait_seconds:mean5m{{{_HERE}}}", "{{instance}}, mean of five minutes"),
                    Query(quantile(0.99, _STAGES, waits), "p99"),
                ],
                width=6,
                logarithmic=True,
            )
        )
        .with_row(row("Writes"))
        .with_panel(
            lines(
                "Write batches and commits",
                "A second, over all shards. Batches that wait together share a commit.",
                "cps",
                [
                    Query(rate("eyebright_index_write_batches_total", _HERE, "instance"), "{{instance}}, batches"),
                    Query(rate(f"{_STAGES}_count", _stage("commit"), "instance"), "{{instance}}, commits"),
                ],
            )
        )
        .with_panel(
            lines(
                "Commit of a shard",
                "One durable transaction; mostly the disk's time.",
                "s",
                [
                    Query(quantile(0.5, _STAGES, _stage("commit")), "p50"),
                    Query(quantile(0.99, _STAGES, _stage("commit")), "p99"),
                ],
                logarithmic=True,
            )
        )
        .with_panel(
            lines(
                "Writes slowed down",
                "Writers that stand still on average, while memory is put into segments.",
                "none",
                [Query(rate(f"{_STAGES}_sum", _stage("stall"), "instance"), "{{instance}}")],
                limits=Limits(0.1, 0.2),
            )
        )
        .with_row(row("From memory to disk"))
        .with_panel(
            lines(
                "Vectors in memory",
                "Not in a segment yet, tombstones included.",
                "short",
                [Query(f"eyebright_index_memtable_rows{{{_HERE}}}", "{{instance}}")],
                width=6,
            )
        )
        .with_panel(
            lines(
                "Segments",
                "By the recipe that they are searched by; exact are those too small for an index.",
                "none",
                [Query(f"sum by (recipe) (eyebright_index_segments{{{_HERE}}})", "{{recipe}}")],
                width=6,
                stacked=True,
            )
        )
        .with_panel(
            lines(
                "Vectors in segments",
                "By recipe, tombstones included.",
                "short",
                [Query(f"sum by (recipe) (eyebright_index_segment_rows{{{_HERE}}})", "{{recipe}}")],
                width=6,
                stacked=True,
            )
        )
        .with_panel(
            lines(
                "Tombstones",
                "Share of all vectors held. A merge drops them; it comes by itself from a fifth of a segment on.",
                "percentunit",
                [Query(f"{dead} / ({dead} + {alive})", "{{instance}}")],
                width=6,
            )
        )
        .with_panel(
            lines(
                "Background work",
                "Share of the time that seals, merges and rebuilds are under way; each has a thread of its own.",
                "percentunit",
                [Query(rate(f"{_STAGES}_sum", _stage("seal", "merge_segments", "rebuild"), "stage"), "{{stage}}")],
            )
        )
        .with_panel(
            lines(
                "How long a piece of it takes",
                "On average.",
                "s",
                [Query(mean(_STAGES, _stage("seal", "merge_segments"), "stage"), "{{stage}}")],
                logarithmic=True,
            )
        )
        .with_panel(
            lines(
                "Background work that failed",
                "It is tried again, after pauses that grow to a minute.",
                "none",
                [
                    Query(
                        f"sum by (work) (increase(eyebright_index_compaction_failures_total{{{_HERE}}}[{WINDOW}]))",
                        "{{work}}",
                    )
                ],
                limits=Limits(1, 2),
            )
        )
        .with_row(row("Collections"))
        .with_panel(
            lines(
                "Records",
                "By collection.",
                "short",
                [Query(f"sum by (collection) (eyebright_index_records{{{_HERE}}})", "{{collection}}")],
                stacked=True,
            )
        )
        .with_panel(
            lines(
                "Collections",
                "",
                "none",
                [Query(f"eyebright_index_collections{{{_HERE}}}", "{{instance}}")],
            )
        )
        .with_panel(
            lines(
                "Shards that refuse writes",
                "After their disk was full or failed.",
                "none",
                [Query(f"eyebright_index_read_only_shards{{{_HERE}}}", "{{instance}}")],
                limits=Limits(1, 1),
            )
        )
    )
