"""The dashboard of the embedder: what it does, who waits, who is refused."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from deploy.grafana.panels import Limits, Query, heat, lines, mean, number, page, quantile, rate, row, rows

_HERE = 'instance=~"$instance"'
_INTERACTIVE = f'{_HERE},priority="interactive"'


def dashboard() -> Dashboard:
    """The work of the device, the queues before it, and what never got to it."""
    hits = rate("eyebright_embedder_text_cache_lookups_total", f'{_HERE},result=~"hit|shared"', "instance")
    lookups = rate("eyebright_embedder_text_cache_lookups_total", _HERE, "instance")
    return (
        page(
            "embedder",
            "embedder",
            "What the embedder does, who waits for it, and whom it refuses.",
            ("instance", "eyebright_embedder_model_info"),
        )
        .with_row(row("The device"))
        .with_panel(
            number(
                "Device busy",
                "Share of the last ten seconds that went into forward passes.",
                "percentunit",
                Query(f"eyebright_embedder_device_busy_ratio{{{_HERE}}}", "{{instance}}"),
                limits=Limits(0.7, 0.95),
            )
        )
        .with_panel(
            lines(
                "Items embedded",
                "A second, through a forward pass; captions from the cache are not among them.",
                "cps",
                [Query(rate("eyebright_embedder_items_total", _HERE, "tower, priority"), "{{tower}}, {{priority}}")],
                width=6,
                stacked=True,
            )
        )
        .with_panel(
            lines(
                "Items that share a pass",
                "On average. Many when much waits.",
                "none",
                [Query(mean("eyebright_embedder_batch_size", _HERE, "tower"), "{{tower}}")],
                width=6,
            )
        )
        .with_panel(
            lines(
                "Median of a pass, by its size",
                "Sizes are rounded up to a power of two.",
                "s",
                [
                    Query(
                        quantile(0.5, "eyebright_embedder_forward_seconds", _HERE, "tower, batch"),
                        "{{tower}}, {{batch}}",
                    )
                ],
                width=6,
                logarithmic=True,
            )
        )
        .with_row(row("Who waits"))
        .with_panel(
            lines(
                "Wait of interactive items",
                "For the device. From 0.25 s on average it is an alert.",
                "s",
                [
                    Query(quantile(0.5, "eyebright_embedder_queue_seconds", _INTERACTIVE, "tower"), "{{tower}}, p50"),
                    Query(quantile(0.99, "eyebright_embedder_queue_seconds", _INTERACTIVE, "tower"), "{{tower}}, p99"),
                ],
                logarithmic=True,
            )
        )
        .with_panel(
            heat(
                "Waits, interactive", "How many waited how long.", "s", "eyebright_embedder_queue_seconds", _INTERACTIVE
            )
        )
        .with_panel(
            lines(
                "Work that waits",
                "Seconds that the device will need for what is in its queues.",
                "s",
                [
                    Query(
                        f"sum by (tower, priority) (eyebright_embedder_queue_cost_seconds{{{_HERE}}})",
                        "{{tower}}, {{priority}}",
                    )
                ],
                stacked=True,
            )
        )
        .with_panel(
            lines(
                "Items that wait",
                "For the device, or to be decoded.",
                "none",
                [
                    Query(
                        f"sum by (tower, priority) (eyebright_embedder_queue_items{{{_HERE}}})",
                        "{{tower}}, {{priority}}",
                    ),
                    Query(
                        f"sum by (priority) (eyebright_embedder_decode_queue_items{{{_HERE}}})", "decode, {{priority}}"
                    ),
                ],
                stacked=True,
            )
        )
        .with_panel(
            lines(
                "Items inside",
                "From arrival to answer. --queue-limit bounds them.",
                "none",
                [Query(f"sum by (tower) (eyebright_embedder_admitted_items{{{_HERE}}})", "{{tower}}")],
                stacked=True,
            )
        )
        .with_panel(
            lines(
                "Bytes held for them",
                "As they came, and as the tower takes them. --queue-bytes bounds them.",
                "bytes",
                [Query(f"sum by (tower) (eyebright_embedder_admitted_bytes{{{_HERE}}})", "{{tower}}")],
                stacked=True,
            )
        )
        .with_row(row("Who gets nothing"))
        .with_panel(
            lines(
                "Share refused for want of time or room",
                "Of all items. From 5 % on it is a page.",
                "percentunit",
                [Query(f"eyebright:embedder_refused:ratio5m{{{_HERE}}}", "{{instance}}, {{tower}}")],
                limits=Limits(0.01, 0.05),
            )
        )
        .with_panel(
            lines(
                "Items refused, by reason",
                "A second. invalid is the caller's fault; the others are want of time or room.",
                "cps",
                [Query(rate("eyebright_embedder_rejected_items_total", _HERE, "reason"), "{{reason}}")],
                stacked=True,
            )
        )
        .with_panel(
            lines(
                "Items given up by their callers, by stage",
                "A second; those that got to forward were embedded in vain.",
                "cps",
                [Query(rate("eyebright_embedder_cancelled_items_total", _HERE, "stage"), "{{stage}}")],
                stacked=True,
            )
        )
        .with_row(row("Before the device"))
        .with_panel(
            lines(
                "Decoding of one image",
                "",
                "s",
                [
                    Query(quantile(0.5, "eyebright_embedder_decode_seconds", _HERE), "p50"),
                    Query(quantile(0.99, "eyebright_embedder_decode_seconds", _HERE), "p99"),
                ],
                width=6,
            )
        )
        .with_panel(
            lines(
                "Tokenising of one request",
                "",
                "s",
                [
                    Query(quantile(0.5, "eyebright_embedder_tokenise_seconds", _HERE), "p50"),
                    Query(quantile(0.99, "eyebright_embedder_tokenise_seconds", _HERE), "p99"),
                ],
                width=6,
            )
        )
        .with_panel(
            lines(
                "Captions found in the cache",
                "Share of those looked up, with those that were under way.",
                "percentunit",
                [Query(f"{hits} / {lookups}", "{{instance}}")],
                width=6,
                highest=1,
            )
        )
        .with_panel(
            lines(
                "Size of the cache",
                "--text-cache-bytes bounds it.",
                "bytes",
                [Query(f"eyebright_embedder_text_cache_bytes{{{_HERE}}}", "{{instance}}")],
                width=6,
            )
        )
        .with_row(row("What is served"))
        .with_panel(
            rows(
                "Checkpoints",
                "All replicas should say the same fingerprint.",
                Query(f"eyebright_embedder_model_info{{{_HERE}}}", ""),
            )
        )
        .with_panel(
            lines(
                "How far the canary is off",
                "1 less the cosine of its vector to the golden one. Past what is allowed it says NOT_SERVING; "
                "half of that is an alert.",
                "none",
                [
                    Query(
                        f"max by (instance, tower) (1 - eyebright_embedder_canary_cosine{{{_HERE}}})",
                        "{{instance}}, {{tower}}",
                    ),
                    Query(f"max(1 - eyebright_embedder_canary_least_cosine{{{_HERE}}})", "allowed"),
                ],
                width=12,
                logarithmic=True,
            )
        )
        .with_panel(
            lines(
                "Largest pass",
                "Items. It is lowered when a pass runs out of memory.",
                "none",
                [
                    Query(
                        f"min by (instance, tower) (eyebright_embedder_batch_limit{{{_HERE}}})",
                        "{{instance}}, {{tower}}",
                    )
                ],
                width=12,
            )
        )
    )
