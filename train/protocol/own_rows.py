"""Results of this machine as rows of the published tables."""

from collections.abc import Sequence
from statistics import median

from e2e_deploy.names import Measure
from e2e_deploy.train.protocol.published_table import OwnRow
from e2e_deploy.train.protocol.run import ProtocolReport


def own_rows(reports: Sequence[ProtocolReport]) -> dict[Measure, list[OwnRow]]:
    """A row for each model of which something was measured, by what was measured."""
    rows: dict[Measure, list[OwnRow]] = {}
    for report in reports:
        for measure in dict.fromkeys(result.measure for result in report.results):
            results = [result for result in report.results if result.measure == measure]
            settings = results[0].contender.settings
            steps, ensemble = settings.get("steps", 1), settings.get("ensemble", 1)
            rows.setdefault(measure, []).append(
                OwnRow(
                    method=results[0].contender.label(),
                    values={result.set: result.pair() for result in results},
                    missing={
                        each.name: each.reason for each in report.missing if each.measure == measure
                    },
                    runs=f"{steps}x{ensemble}",
                    time_s=median(result.ms_per_image for result in results) / 1000,
                )
            )
    return rows
