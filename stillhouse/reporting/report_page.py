"""One self-contained HTML page out of what the stages left behind: figures, tables, charts, provenance.

It holds no clock and fetches nothing: the same inputs give the same page, and it can be mailed as one file. What a kind of
model shows stands in `report_classes.py` and `report_language.py`, the words at the top in `findings.py` and
`language_findings.py`, the charts in `charts.py`; `report_base.html.jinja` is the page of both.
"""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from stillhouse.core.artifacts import CHARTS
from stillhouse.core.params import PARAMS_FILE, read_yaml
from stillhouse.reporting import charts
from stillhouse.reporting.chart_files import write_charts
from stillhouse.reporting.findings import percent, size_of
from stillhouse.reporting.page import page_of
from stillhouse.reporting.report_parts import NAMES, duration, provenance


def write_report(title: str, path: Path) -> None:
    """Write the page to `path`, and its charts beside it.

    Raises ArtifactError if an output of an earlier stage is missing or damaged.
    """
    params = read_yaml(PARAMS_FILE)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "size": size_of,
        "duration": duration,
        "key": charts.key,
        "breakable": charts.breakable,
        "visible": charts.visible,
    }
    shown = page_of(params["kind"])
    template = environment.get_template(shown.TEMPLATE)
    page = template.render(title=title, names=NAMES, **shown.show(params), **provenance(params))
    path.write_text(page, encoding="utf-8")
    write_charts(page, path.with_name(CHARTS.name))
