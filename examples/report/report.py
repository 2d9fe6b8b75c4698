"""Write a small report: how well does a model predict the heating demand of a building?

usage: python report.py DIRECTORY

The measurements are simulated from a fixed seed, so that every run gives the same report. Two files
are written to DIRECTORY: report.png with the plots and report.html with a table and those plots.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # before pyplot is imported: there may be no display

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from jinja2 import Environment
from matplotlib.dates import DateFormatter
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.metrics import mean_absolute_error, r2_score

SEED = 20240229
FEATURES = ["outdoor", "wind", "hour", "weekend"]
SEASONS = {12: "winter", 1: "winter", 2: "winter", 6: "summer", 7: "summer", 8: "summer"}

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>Heating demand</title>
<style>
  body { font-family: sans-serif; margin: 2em auto; max-width: 60em; }
  table { border-collapse: collapse; }
  th, td { border-bottom: 1px solid #ccc; padding: 0.3em 1em; text-align: right; }
</style>
<h1>Heating demand</h1>
<p>Trained on {{ trained }} hours, tested on {{ tested }} later ones; R² = {{ "%.3f" | format(score) }}.</p>
{{ table | safe }}
<p><img src="{{ plot }}" alt="Predicted against measured demand, and both over one week" width="100%"></p>
</html>
"""


def measure() -> pd.DataFrame:
    """Simulate two years of hourly measurements."""
    rng = np.random.default_rng(SEED)
    time = pd.date_range("2022-01-01", "2023-12-31 23:00", freq="h")
    year = 2 * np.pi * time.day_of_year.to_numpy() / 365.25
    day = 2 * np.pi * time.hour.to_numpy() / 24
    outdoor = 10 - 10 * np.cos(year - 0.3) - 4 * np.cos(day - 0.8) + rng.normal(0, 2, len(time))
    wind = rng.gamma(2.0, 2.0, len(time))
    weekend = time.day_of_week.to_numpy() >= 5  # noqa: PLR2004 - Saturday
    occupied = ~weekend & (time.hour.to_numpy() >= 6) & (time.hour.to_numpy() < 20)  # noqa: PLR2004
    indoor = np.where(occupied, 21, 17)
    demand = np.clip(indoor - outdoor, 0, None) * (3.5 + 0.15 * wind) + rng.normal(0, 3, len(time))
    return pd.DataFrame(
        {
            "outdoor": outdoor,
            "wind": wind,
            "hour": time.hour,
            "weekend": weekend,
            "demand": np.clip(demand, 0, None),
        },
        index=time,
    )


def predict(data: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Fit on the first year; return the second with predictions, and the number of hours fitted on."""
    train, test = data.loc["2022"], data.loc["2023"]
    model = HistGradientBoostingRegressor(random_state=SEED).fit(train[FEATURES], train["demand"])
    return test.assign(predicted=model.predict(test[FEATURES])), len(train)


def summarize(test: pd.DataFrame) -> pd.DataFrame:
    """Tabulate demand and error by season."""
    season = pd.Series(test.index.month, index=test.index).map(SEASONS).fillna("between")
    groups = {name: test[season == name] for name in ["winter", "between", "summer"]}
    return pd.DataFrame(
        {
            "hours": {name: len(group) for name, group in groups.items()},
            "mean demand, kW": {name: group["demand"].mean() for name, group in groups.items()},
            "mean absolute error, kW": {
                name: mean_absolute_error(group["demand"], group["predicted"])
                for name, group in groups.items()
            },
        },
    )


def plot(test: pd.DataFrame, target: Path) -> None:
    """Draw predicted against measured demand, and both over one week."""
    sns.set_theme(style="whitegrid")
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), width_ratios=(1, 2), layout="constrained")
    sample = test.sample(1500, random_state=SEED)
    sns.scatterplot(sample, x="demand", y="predicted", hue="weekend", s=12, linewidth=0, ax=left)
    left.axline((0, 0), slope=1, color="0.4", linewidth=1)
    left.set(xlabel="measured, kW", ylabel="predicted, kW", title="Predicted against measured")
    week = test.loc["2023-01-09":"2023-01-15"]
    right.plot(week.index, week["demand"], label="measured", linewidth=1)
    right.plot(week.index, week["predicted"], label="predicted", linewidth=1)
    right.set(ylabel="demand, kW", title="A week in January")
    right.xaxis.set_major_formatter(DateFormatter("%d %b"))
    right.legend()
    figure.savefig(target, dpi=120)
    plt.close(figure)


def main() -> None:
    if len(sys.argv) != 2:  # noqa: PLR2004 - the program and its one argument
        sys.exit("usage: python report.py DIRECTORY")
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    picture, page = directory / "report.png", directory / "report.html"

    test, trained = predict(measure())
    plot(test, picture)
    html = (
        Environment(autoescape=True)
        .from_string(PAGE)
        .render(
            trained=trained,
            tested=len(test),
            score=r2_score(test["demand"], test["predicted"]),
            table=summarize(test).to_html(float_format="{:.1f}".format, border=0),
            plot=picture.name,
        )
    )
    page.write_text(html, encoding="utf-8")
    for path in (picture, page):
        print(f"wrote {path} ({path.stat().st_size / 1000:.0f} kB)")


if __name__ == "__main__":
    main()
