"""study.json -> one HTML file that needs nothing else: charts inline, no script, no network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from gander import charts
from gander.errors import shown
from gander.study import verdict

TEMPLATE = Path(__file__).with_name("page.html")
WIDTH = 900  # px of a chart


def page(data: Mapping[str, Any], result: Mapping[str, Any] | None) -> str:
    """What came out so far, or how far it came. Every word of the user's is escaped."""
    plan, seeds = data["plan"], max(run["seed"] for run in data["runs"]) + 1
    knobs = " and ".join(name.replace("_", " ") for name in plan["vary"])
    ended = [run for run in data["runs"] if run["state"] != "waiting"]
    facts = f"{len(data['arms'])} arms, {seeds} seeds, {len(ended)} of {len(data['runs'])} runs made, equal {plan['equal']}"
    made = [*(f"{name} {number}" for name, number in data["versions"].items()), data["machine"], data["created"]]
    values: dict[str, Any] = {
        "title": f"{plan['recipe']} on {plan['data']}: does {knobs} matter?",
        "facts": facts,
        "result": result,
        "effect": verdict.EFFECT,
        "waiting": "A result takes two seeds of all arms.",
        "runs": [_run(run, data.get("outcome", {}).get("scale", 1.0)) for run in data["runs"]],
        "command": shown(data["command"]),
        "made": shown(", ".join(made)),
    }
    if result:
        values |= {"tables": [verdict.table(result), verdict.tests(result)], **_charts(result)}
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(values)


def _charts(result: Mapping[str, Any]) -> dict[str, Any]:
    outcome, arms = result["outcome"], result["arms"]
    axis = f"{outcome['name']}{', ' + outcome['unit'] if outcome['unit'] else ''} ({outcome['better']} is better)"
    seeds = [f"seed {seed}" for seed in result["seeds"]]
    failed = {arm["name"]: set(arm["failed"]) for arm in arms}
    runs = charts.dots(
        {arm["name"]: arm["values"] for arm in arms},
        title=outcome["name"],
        x=axis,
        intervals={arm["name"]: tuple(arm["interval"]) for arm in arms},
        failed=failed,
        names=seeds,
        width=WIDTH,
    )
    pairs = charts.dots(
        {f"{apart['arm']} − {apart['against']}": apart["pairs"] for apart in result["differences"]},
        title="Paired differences",
        x=axis,
        intervals={f"{a['arm']} − {a['against']}": (a["low"], a["mean"], a["high"]) for a in result["differences"]},
        names=seeds,
        zero=True,
        first=1,
        width=WIDTH,
    )
    return {"runs_chart": Markup(runs), "pairs_chart": Markup(pairs), "any_failed": any(failed.values())}


def _run(run: Mapping[str, Any], scale: float) -> dict[str, str]:
    numbers = {key: f"{scale * run[key]:.4g}" if run.get(key) is not None else "" for key in ("last", "best")}
    numbers |= {key: f"{run[key]:.4g}" if run.get(key) is not None else "" for key in ("exams", "seconds")}
    return {"name": f"{run['arm']}, seed {run['seed']}", "state": run["state"], "why": shown(run.get("why", "")), **numbers}
