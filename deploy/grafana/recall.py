"""The dashboard of recall: do approximate answers hold what is promised, and what does that rest on."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from deploy.grafana.panels import Limits, Query, heat, lines, mean, number, page, rate, row

_PROBE = "eyebright_index_probe_recall"
_CHOSEN = 'collection=~"$collection"'


def dashboard() -> Dashboard:
    """Recall against its objective, by collection, modality and recipe."""
    missed = f"(1 - eyebright:recall:ratio1h{{{_CHOSEN}}})"
    allowed = f"(1 - eyebright:recall_objective:ratio{{{_CHOSEN}}})"
    return (
        page(
            "recall",
            "recall objective",
            "What approximate answers hold of the exact ones, measured on a sample of live queries.",
            ("collection", "eyebright_index_records"),
        )
        .with_row(row("Objective: 95 %, or what the collection was tuned for"))
        .with_panel(
            number(
                "Recall, last hour",
                "Mean share of the exact hits that sampled approximate answers held.",
                "percentunit",
                Query(f"eyebright:recall:ratio1h{{{_CHOSEN}}}", "{{collection}}, {{modality}}"),
                limits=Limits(0.95, 0.8),
            )
        )
        .with_panel(
            lines(
                "Recall",
                "Over five minutes. It is uncertain by a few hundredths where few queries were sampled.",
                "percentunit",
                [
                    Query(f"eyebright:recall:ratio5m{{{_CHOSEN}}}", "{{collection}}, {{modality}}"),
                    Query(f"eyebright:recall_objective:ratio{{{_CHOSEN}}}", "{{collection}}: objective"),
                ],
                width=9,
                lowest=None,
                highest=1,
            )
        )
        .with_panel(
            lines(
                "Misses, in units of what is allowed",
                "What was missed in the last hour over what the objective allows. From 4 on it is a page.",
                "none",
                [Query(f"{missed} / on (collection) group_left () {allowed}", "{{collection}}, {{modality}}")],
                width=9,
                limits=Limits(1, 4),
            )
        )
        .with_row(row("What it rests on"))
        .with_panel(
            heat("Sampled queries by recall", "How many answers held how much.", "percentunit", _PROBE, _CHOSEN)
        )
        .with_panel(
            lines(
                "Recall by recipe",
                "Mean, by the index that answered.",
                "percentunit",
                [Query(mean(_PROBE, _CHOSEN, "recipe, modality"), "{{recipe}}, {{modality}}")],
                lowest=None,
                highest=1,
            )
        )
        .with_panel(
            lines(
                "Queries answered again",
                "A second, by collection. --recall-probe-share and --recall-probe-cpu-share say how many may be.",
                "cps",
                [Query(rate(f"{_PROBE}_count", _CHOSEN, "collection, modality"), "{{collection}}, {{modality}}")],
                stacked=True,
            )
        )
        .with_row(row("What the probe costs, over all collections"))
        .with_panel(
            lines(
                "Samples dropped",
                "A second. Many with queue_full: a larger --recall-probe-cpu-share, or a smaller share of queries.",
                "cps",
                [Query(rate("eyebright_index_probes_dropped_total", "", "reason"), "{{reason}}")],
                stacked=True,
            )
        )
        .with_panel(
            lines(
                "Samples that wait",
                "Four at most; the one under way is counted too.",
                "none",
                [Query("sum by (instance) (eyebright_index_probes_waiting)", "{{instance}}")],
            )
        )
        .with_panel(
            lines(
                "Age of the oldest sample",
                "After a minute it is dropped.",
                "s",
                [Query("max by (instance) (eyebright_index_probe_lag_seconds)", "{{instance}}")],
            )
        )
    )
