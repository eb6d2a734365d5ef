"""Commands of the training PC: check, synth, train, calibrate, evaluate, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import schema
from ..errors import DataError, InputError
from . import show
from .app import app
from .options import (
    BundleOrRunArgument,
    ConfigOption,
    DataArgument,
    DeviceOption,
    EngineOption,
    FalseAlarmOption,
    JsonOption,
    LayoutOption,
    PresetOption,
    RoiOption,
    RunArgument,
    SeedOption,
    SetOption,
    SizeOption,
    SkipBadOption,
    run_config,
)

PANEL = "On the training PC"


@app.command(rich_help_panel=PANEL)
def check(
    data: DataArgument,
    layout: LayoutOption = None,
    roi: RoiOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look at every image of a data set and name each that cannot be used."""
    from ..data.check import check_dataset
    from ..data.layout import open_dataset

    config = run_config(layout=layout, roi=roi).data
    dataset = open_dataset(data, config)
    with show.counting("checking images") as progress:
        report = check_dataset(dataset, config, progress)
    if as_json:
        show.json_document(report.to_json())
    else:
        show.say(report.text())
    if report.findings:
        raise DataError(f"{len(report.findings)} problems in {data}; train with --skip-bad, or fix")
