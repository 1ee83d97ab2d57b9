"""``e2e-deploy doctor``: what works on this machine, and what to install for the rest."""

import json
import platform
from dataclasses import asdict

import click

from e2e_deploy.cli import options


@click.command("doctor")
@options.as_json
def command(as_json: bool) -> None:
    """Say what works on this machine and what to install for the rest; exit 4 when the plain install is broken."""
    from e2e_deploy.cli.wording import with_options
    from e2e_deploy.errors import UnavailableError
    from e2e_deploy.verbs.doctor import doctor

    findings = doctor()
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        click.echo(f"python {platform.python_version()} on {platform.platform()}")
        for finding in findings:
            mark = "yes" if finding.works else "no "
            remedy = f"  -> {finding.remedy}" if finding.remedy and not finding.works else ""
            click.echo(with_options(f"{mark}  {finding.what:<28} {finding.found}{remedy}"))
    broken = [finding.what for finding in findings if finding.needed and not finding.works]
    if broken:
        raise UnavailableError(f"the plain install does not work here: {', '.join(broken)}")
