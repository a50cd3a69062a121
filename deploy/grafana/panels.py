"""The panels that dashboards are made of, and the queries that recur in them.

Owns how everything looks, so that a dashboard says only what it shows. Knows no metric.
"""

from collections.abc import Sequence
from typing import NamedTuple

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models.common import (
    BigValueGraphMode,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    ScaleDistribution,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    DataTransformerConfig,
    Threshold,
    ThresholdsMode,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

DATASOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
WINDOW = "$__rate_interval"
"""Four times as long as Prometheus scrapes, or a step of the picture where that is longer."""

_HEIGHT = 8
_GREEN, _ORANGE, _RED = "green", "orange", "red"


class Query(NamedTuple):
    """One query of a panel, and what its lines are called."""

    expr: str
    legend: str


class Limits(NamedTuple):
    """Values from which something is worth a look, and from which it is wrong."""

    look: float
    wrong: float


# Queries.


def rate(name: str, matchers: str, by: str) -> str:
    """A second's worth of a counter, by these labels."""
    return f"sum by ({by}) (rate({name}{{{matchers}}}[{WINDOW}]))"


def mean(name: str, matchers: str, by: str) -> str:
    """The mean of what a histogram counted, by these labels."""
    return f"{rate(f'{name}_sum', matchers, by)} / {rate(f'{name}_count', matchers, by)}"


def quantile(share: float, name: str, matchers: str, by: str = "") -> str:
    """A quantile of what a histogram counted, by these labels."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, {rate(f'{name}_bucket', matchers, labels)})"


def quantiles(name: str, matchers: str) -> list[Query]:
    """The quantiles that people ask for."""
    shares = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999))
    return [Query(quantile(share, name, matchers), called) for called, share in shares]


# Panels.


def lines(
    title: str,
    description: str,
    unit: str,
    queries: Sequence[Query],
    *,
    width: int = 8,
    stacked: bool = False,
    logarithmic: bool = False,
    exemplars: bool = False,
    lowest: float | None = 0,
    highest: float | None = None,
    limits: Limits | None = None,
) -> timeseries.Panel:
    """Values over time."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .unit(unit)
        .line_width(1)
        .fill_opacity(30 if stacked else 8)
        .show_points(VisibilityMode.NEVER)
        .span_nulls(False)
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .datasource(DATASOURCE)
        .span(width)
        .height(_HEIGHT)
    )
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    if logarithmic:
        panel.scale_distribution(common.ScaleDistributionConfig().type(ScaleDistribution.LOG).log(10))
    if lowest is not None:
        panel.min(lowest)
    if highest is not None:
        panel.max(highest)
    if limits is not None:
        panel.thresholds(_thresholds(limits))
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED))
    for number, query in enumerate(queries):
        panel.with_target(_target(query, number).range().exemplar(exemplars))
    return panel


def number(
    title: str, description: str, unit: str, query: Query, *, limits: Limits | None = None, width: int = 6
) -> stat.Panel:
    """The newest value of each series, large, before its course."""
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .unit(unit)
        .graph_mode(BigValueGraphMode.AREA)
        .reduce_options(_last())
        .datasource(DATASOURCE)
        .span(width)
        .height(_HEIGHT)
        .with_target(_target(query, 0).range())
    )
    if limits is not None:
        panel.thresholds(_thresholds(limits))
    return panel


def heat(title: str, description: str, unit: str, name: str, matchers: str, *, width: int = 8) -> heatmap.Panel:
    """What a histogram counted, by bucket, over time."""
    query = Query(f"sum by (le) (increase({name}_bucket{{{matchers}}}[{WINDOW}]))", "{{le}}")
    return (
        heatmap.Panel()
        .title(title)
        .description(description)
        .calculate(False)
        .y_axis(heatmap.YAxisConfig().unit(unit))
        .color(heatmap.HeatmapColorOptions().scheme("Blues").steps(64))
        .datasource(DATASOURCE)
        .span(width)
        .height(_HEIGHT)
        .with_target(_target(query, 0).range().format(PromQueryFormat.HEATMAP))
    )


def rows(title: str, description: str, query: Query, *, hidden: Sequence[str] = (), width: int = 24) -> table.Panel:
    """The labels of series, as they are now."""
    columns = dict.fromkeys(("Time", "Value", "__name__", *hidden), True)
    return (
        table.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .span(width)
        .height(_HEIGHT - 3)
        .with_target(_target(query, 0).instant().format(PromQueryFormat.TABLE))
        .with_transformation(DataTransformerConfig(id_val="organize", options={"excludeByName": columns}))
    )


# The dashboard around them.


def page(uid: str, title: str, description: str, *variables: tuple[str, str]) -> dashboard.Dashboard:
    """An empty dashboard. A variable is a label, and a metric that bears it; all its values are chosen at first."""
    made = (
        dashboard.Dashboard(f"Eyebright: {title}")
        .uid(f"eyebright-{uid}")
        .description(description)
        .tags(["eyebright"])
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
        .link(
            dashboard.DashboardLink("Eyebright").type(DashboardLinkType.DASHBOARDS).tags(["eyebright"]).keep_time(True)
        )
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    for label, metric in variables:
        made.with_variable(
            dashboard.QueryVariable(label)
            .label(label.capitalize())
            .datasource(DATASOURCE)
            .query(f"label_values({metric}, {label})")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(VariableSort.ALPHABETICAL_ASC)
            .multi(True)
            .include_all(True)
            .all_value(".*")
            .current(VariableOption(text="All", value="$__all"))
        )
    return made


def row(title: str) -> dashboard.Row:
    """The headline of the panels after it."""
    return dashboard.Row(title)


def _target(query: Query, number: int) -> prometheus.Dataquery:
    return (
        prometheus.Dataquery()
        .expr(query.expr)
        .legend_format(query.legend)
        .ref_id(chr(ord("A") + number))
        .datasource(DATASOURCE)
    )


def _thresholds(limits: Limits) -> dashboard.ThresholdsConfig:
    """Colours for values that should be low, or high where what is wrong lies below what is worth a look."""
    low_is_good = limits.look <= limits.wrong
    steps = (
        [(None, _GREEN), (limits.look, _ORANGE), (limits.wrong, _RED)]
        if low_is_good
        else [(None, _RED), (limits.wrong, _ORANGE), (limits.look, _GREEN)]
    )
    return (
        dashboard.ThresholdsConfig()
        .mode(ThresholdsMode.ABSOLUTE)
        .steps([Threshold(value=value, color=colour) for value, colour in steps])
    )


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"])
