"""The dashboard of latency: is the promise kept, and where does the time go."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from deploy.grafana.panels import Limits, Query, heat, lines, mean, number, page, quantile, quantiles, rate, row

_RPC = "eyebright_rpc_latency_seconds"
_STAGES = "eyebright_index_stage_latency_seconds"
_OF_SEARCHES = 'stage=~"queue|filter|shard_search|merge|read_records"'
_SEARCH = 'service="eyebright.index.v1.IndexService",method="Search"'
_LATE = Limits(0.01, 0.144)


def dashboard() -> Dashboard:
    """Latency by method, percentile and stage, and the objective for it."""
    searches = f"sum(rate({_RPC}_count{{{_SEARCH}}}[$__rate_interval]))"
    return (
        page("latency", "query latency", "How long callers wait, and where the time goes.")
        .with_row(row("Objective: 99 % in time (Search 0.1 s; EmbedTexts and EmbedImages 0.5 s)"))
        .with_panel(
            number(
                "Late or failed, last hour",
                "Share of the calls that somebody waited for. The objective allows 1 %.",
                "percentunit",
                Query("eyebright:calls_late:ratio1h", "{{method}}"),
                limits=_LATE,
            )
        )
        .with_panel(
            lines(
                "Late or failed",
                "Share over five minutes. Dashed: the objective, and where a month's share is gone in two days.",
                "percentunit",
                [Query("eyebright:calls_late:ratio5m", "{{method}}")],
                width=9,
                limits=_LATE,
            )
        )
        .with_panel(
            lines(
                "Calls that count",
                "Calls a second that somebody waits for, less those that failed by the caller's fault.",
                "reqps",
                [Query("eyebright:calls:rate5m", "{{method}}")],
                width=9,
            )
        )
        .with_row(row("Search, as the index sees it"))
        .with_panel(
            lines(
                "Latency of Search",
                "From the arrival of the call to its answer. Dots are exemplars: their request_id is in the log.",
                "s",
                quantiles(_RPC, _SEARCH),
                logarithmic=True,
                exemplars=True,
            )
        )
        .with_panel(heat("Searches by latency", "How many took how long.", "s", _RPC, _SEARCH))
        .with_panel(
            lines(
                "Searches by outcome",
                "Calls a second, by gRPC status code.",
                "reqps",
                [Query(rate(f"{_RPC}_count", _SEARCH, "code"), "{{code}}")],
                stacked=True,
            )
        )
        .with_row(row("Where a search's time goes"))
        .with_panel(
            lines(
                "Seconds of a search, by stage",
                "The seconds of each stage over the number of searches. The queue is that of all requests.",
                "s",
                [
                    Query(
                        f"{rate(f'{_STAGES}_sum', _OF_SEARCHES, 'stage')} / on () group_left () {searches}", "{{stage}}"
                    )
                ],
                stacked=True,
            )
        )
        .with_panel(
            lines(
                "Median by stage",
                "What docs/metrics.md says of each stage.",
                "s",
                [Query(quantile(0.5, _STAGES, _OF_SEARCHES, "stage"), "{{stage}}")],
                logarithmic=True,
            )
        )
        .with_panel(
            lines(
                "99th percentile by stage",
                "A stage that is far above its median here makes the slow searches slow.",
                "s",
                [Query(quantile(0.99, _STAGES, _OF_SEARCHES, "stage"), "{{stage}}")],
                logarithmic=True,
            )
        )
        .with_row(row("Embedding, as the embedder sees it"))
        .with_panel(
            lines(
                "Latency of EmbedTexts",
                "From the arrival of the call to its answer.",
                "s",
                quantiles(_RPC, 'method="EmbedTexts"'),
                width=6,
                logarithmic=True,
                exemplars=True,
            )
        )
        .with_panel(
            lines(
                "Latency of EmbedImages",
                "From the arrival of the call to its answer.",
                "s",
                quantiles(_RPC, 'method="EmbedImages"'),
                width=6,
                logarithmic=True,
                exemplars=True,
            )
        )
        .with_panel(
            lines(
                "99th percentile by stage",
                "Decoding of one image, tokenising of one request, an item's wait for the device, one forward pass.",
                "s",
                [
                    Query(quantile(0.99, "eyebright_embedder_decode_seconds", ""), "decode"),
                    Query(quantile(0.99, "eyebright_embedder_tokenise_seconds", ""), "tokenise"),
                    Query(quantile(0.99, "eyebright_embedder_queue_seconds", "", "priority"), "queue, {{priority}}"),
                    Query(quantile(0.99, "eyebright_embedder_forward_seconds", "", "tower"), "forward, {{tower}}"),
                ],
                width=6,
                logarithmic=True,
            )
        )
        .with_panel(
            lines(
                "Mean by stage",
                "The same, on average.",
                "s",
                [
                    Query(mean("eyebright_embedder_decode_seconds", "", ""), "decode"),
                    Query(mean("eyebright_embedder_tokenise_seconds", "", ""), "tokenise"),
                    Query(mean("eyebright_embedder_queue_seconds", "", "priority"), "queue, {{priority}}"),
                    Query(mean("eyebright_embedder_forward_seconds", "", "tower"), "forward, {{tower}}"),
                ],
                width=6,
                logarithmic=True,
            )
        )
    )
