"""A sweep's file becomes cells, or one message says what is wrong, and nothing is written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sanflow.cli import app
from sanflow.errors import ConfigError, DataError, EngineError, InputError
from sanflow.imaging import read, write_png
from sanflow.sweep.cell import run_cell
from sanflow.sweep.config import Sweep, read_sweep
from sanflow.sweep.folder import CellFolder
from sanflow.sweep.plan import check_data, plan


def changed(toml: Path, old: str, new: str) -> Path:
    """The sweep's file with a passage replaced."""
    text = toml.read_text("utf-8")
    assert old in text
    toml.write_text(text.replace(old, new), "utf-8")
    return toml


def test_cells_are_all_combinations_with_every_choice(toml: Path) -> None:
    changed(toml, 'presets = ["edge"]', 'presets = ["edge", "own"]')
    cells = plan(read_sweep(toml))
    assert [cell.name for cell in cells] == [
        f"sanflow-{preset}-parts-seed{seed}" for preset in ("edge", "own") for seed in (0, 1)
    ]
    assert [cell.config.optim.seed for cell in cells] == [0, 1, 0, 1]
    assert {cell.config.model.height for cell in cells} == {64}
    assert [cell.config.model.extractor for cell in cells] == ["resnet18"] * 2 + [
        "wide_resnet50_2"
    ] * 2


def test_a_method_may_have_its_own_fields(toml: Path) -> None:
    toml.write_text(toml.read_text("utf-8") + "[set_for.sanflow.optim]\nepochs = 7\n", "utf-8")
    assert {cell.config.optim.epochs for cell in plan(read_sweep(toml))} == {7}


def test_paths_begin_at_the_file(toml: Path) -> None:
    changed(toml, 'weights = "none"', 'weights = "weights/r18.pth"')
    (toml.parent / "weights").mkdir()
    (toml.parent / "weights" / "r18.pth").touch()
    assert {cell.config.weights for cell in plan(read_sweep(toml))} == {
        str(toml.parent / "weights" / "r18.pth")
    }


def test_every_category_of_a_public_data_set(parts: Path, toml: Path, tmp_path: Path) -> None:
    for name in ("bottle", "screw"):
        shutil.copytree(parts, tmp_path / "mvtec" / name)
    changed(toml, f'root = "{parts.as_posix()}"', 'root = "mvtec"\nlayout = "mvtec-ad"')
    names = [cell.name for cell in plan(read_sweep(toml))]
    assert names == [
        f"sanflow-edge-parts-{name}-seed{seed}" for name in ("bottle", "screw") for seed in (0, 1)
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds = [0, 1]", "seeds = [0, 0]", "seeds .* holds a value twice"),
        ("seeds = [0, 1]", "seeds = []", "seeds is empty"),
        ("seeds = [0, 1]", "sedes = [0]", "unknown field 'sedes'; did you mean 'seeds'"),
        ('"edge"', '"edgy"', "unknown name 'edgy'; did you mean 'edge'"),
        ("epochs = 2", "epoch = 2", "unknown field 'epoch'; did you mean 'epochs'"),
        ("epochs = 2", "epochs = 0", "epochs"),
        (
            "epochs = 2",
            "epochs = 2, seed = 3",
            "set.optim.seed: each cell has its own; give seeds in",
        ),
        ("[set]", '[set]\ndata.category = "x"', "set.data.category: .* give categories of .*data"),
        (
            "[set]",
            '[set_for.sanflow]\nmodel.method = "cflow"\n[set]',
            "set_for.sanflow.model.method: each cell has its own; give methods",
        ),
        ("[set]", "[set_for.sanflwo]", "set_for.sanflwo: expected a table for one of the methods"),
        ("seeds = [0, 1]", "seeds = [0, 1", "not a TOML file"),
        ("seeds =", 'target = "onyx"\nseeds =', "tiny.toml: target 'onyx' is not one of onnx, "),
        ("seeds =", 'precision = "fp31"\nseeds =', "precision 'fp31' is not one of fp32, fp16"),
        ("seeds =", 'precision = "bf16"\nseeds =', "bf16 needs the target openvino, not onnx"),
        ("seeds =", 'device = "gpu"\nseeds =', "device 'gpu' is not one; give auto, cpu, cuda or"),
    ],
)
def test_a_bad_value_is_named(toml: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(read_sweep(changed(toml, old, new)))


def test_a_precision_that_only_another_machine_has(
    toml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be Ray's; the machine of a cell says so before it trains."""
    monkeypatch.setattr("sanflow.export.asked.has_bf16", lambda: False)
    changed(toml, "seeds =", 'target = "openvino"\nprecision = "bf16"\nseeds =')
    cell = plan(read_sweep(toml))[0]
    folder = CellFolder(tmp_path / "cell")
    folder.prepare(cell)
    with pytest.raises(EngineError, match="this processor has no BF16 products"):
        run_cell(folder, print)
    assert not (folder.path / "run").exists()


def test_a_missing_file_of_weights(toml: Path) -> None:
    changed(toml, 'weights = "none"', 'weights = "absent.pth"')
    with pytest.raises(InputError, match=r"weights '.*absent\.pth': no such file"):
        plan(read_sweep(toml))


def test_a_missing_category(toml: Path, parts: Path) -> None:
    changed(toml, 'name = "parts"', 'name = "parts"\ncategories = ["screw"]')
    with pytest.raises(DataError, match="no data set in MVTec AD layout"):
        plan(read_sweep(toml))


def test_an_empty_class(toml: Path, parts: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name, source in (("cat", "train"), ("dog", "calibrate")):
            shutil.copytree(parts / source / "good", tmp_path / "pets" / split / name)
    changed(toml, f'root = "{parts.as_posix()}"', 'root = "pets"\nlayout = "classes"')
    assert len(plan(read_sweep(toml))) == 4
    for path in (tmp_path / "pets" / "test" / "dog").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="no images of the class dog"):
        plan(read_sweep(toml))


def test_data_without_defects_measures_nothing(toml: Path, parts: Path, tmp_path: Path) -> None:
    shutil.copytree(parts / "train" / "good", tmp_path / "good")
    changed(toml, f'root = "{parts.as_posix()}"', 'root = "good"')
    with pytest.raises(DataError, match="parts has no good test images"):
        plan(read_sweep(toml))


def test_two_data_sets_of_one_name(toml: Path) -> None:
    text = toml.read_text("utf-8")
    entry = text[text.index("[[data]]") : text.index("[set]")]
    toml.write_text(text.replace(entry, entry + entry.replace("parts/", "parts/")), "utf-8")
    with pytest.raises(ConfigError, match=r"holds a value twice|give each a name of its own"):
        plan(read_sweep(toml))


def test_two_names_that_no_folder_tells_apart(toml: Path) -> None:
    text = toml.read_text("utf-8")
    entry = text[text.index("[[data]]") : text.index("[set]")]
    both = [entry.replace('"parts"', f'"{name}"') for name in ("金属", "塑料")]
    toml.write_text(text.replace(entry, "".join(both)), "utf-8")
    with pytest.raises(ConfigError, match=r"sanflow-edge-_-seed0; .*letters a to z, digits or dot"):
        plan(read_sweep(toml))


def test_a_mask_of_another_size_stops_before_anything_is_written(
    toml: Path, parts: Path, tmp_path: Path
) -> None:
    mine = shutil.copytree(parts, tmp_path / "mine")
    mask = mine / "ground_truth" / "dent" / "001_mask.png"
    write_png(mask, read(mask)[:32])
    changed(toml, parts.as_posix(), "mine")
    with pytest.raises(DataError, match="the mask is 64x32, its image 64x64"):
        check_data(plan(read_sweep(toml)))
    done = CliRunner().invoke(app, ["sweep", str(toml), "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "the mask is 64x32" in done.stderr
    assert not (tmp_path / "out").exists()


def test_bad_images_may_be_left_out(toml: Path, parts: Path, tmp_path: Path) -> None:
    mine = shutil.copytree(parts, tmp_path / "mine")
    (mine / "train" / "good" / "000.png").write_bytes(b"")
    changed(toml, f'{parts.as_posix()}"', 'mine"\nskip_bad = true')
    check_data(plan(read_sweep(toml)))


def test_without_the_bad_images_something_must_be_left(
    toml: Path, parts: Path, tmp_path: Path
) -> None:
    """Found before the first cell trains, not when it is calibrated or evaluated."""
    mine = shutil.copytree(parts, tmp_path / "mine")
    changed(toml, f'{parts.as_posix()}"', 'mine"\nskip_bad = true')
    for path in (mine / "test" / "good").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="parts has no good test images that can be used"):
        check_data(plan(read_sweep(toml)))
    for path in (mine / "calibrate" / "good").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="no good part is left to calibrate with"):
        check_data(plan(read_sweep(toml)))


def test_images_too_small_for_one_of_the_models(toml: Path) -> None:
    """64 x 64 pixels are enough for the tiny model and too few for one of 1056 x 1056."""
    check_data(plan(read_sweep(toml)))
    changed(toml, 'presets = ["edge"]', 'presets = ["edge"]\nmethods = ["sanflow", "cflow"]')
    more = "[set_for.cflow.model]\nheight = 1056\nwidth = 1056\nhead_width = 64\n"
    toml.write_text(toml.read_text("utf-8") + more, "utf-8")
    with pytest.raises(DataError, match=r"64x64 .* too few for a model that sees 1056x1056"):
        check_data(plan(read_sweep(toml)))


def test_presets_of_categories(toml: Path, parts: Path, tmp_path: Path) -> None:
    for name in ("grid", "pill"):
        shutil.copytree(parts, tmp_path / "mvtec" / name)
    entry = 'root = "mvtec"\nlayout = "mvtec-ad"\ncategory_presets = true'
    changed(toml, f'root = "{parts.as_posix()}"', entry)
    changed(toml, 'presets = ["edge"]', 'methods = ["cflow"]')
    text = toml.read_text("utf-8")
    toml.write_text(text[: text.index("[set]")], "utf-8")
    sizes = {c.category: c.config.model.height for c in plan(read_sweep(toml))}
    assert sizes == {"grid": 512, "pill": 256}
    with pytest.raises(ConfigError, match="sanflow has none for grid of mvtec-ad"):
        plan(read_sweep(changed(toml, '"cflow"', '"sanflow"')))


def test_presets_of_categories_bear_no_other_presets_name(
    toml: Path, parts: Path, tmp_path: Path
) -> None:
    shutil.copytree(parts, tmp_path / "mvtec" / "grid")
    entry = 'root = "mvtec"\nlayout = "mvtec-ad"\ncategory_presets = true'
    changed(toml, f'root = "{parts.as_posix()}"', entry)
    changed(toml, 'presets = ["edge"]', 'methods = ["cflow"]\npresets = ["own", "edge"]')
    text = toml.read_text("utf-8")
    toml.write_text(text[: text.index("[set]")], "utf-8")
    with pytest.raises(ConfigError, match="trained with METHOD-CATEGORY, not with 'edge'"):
        plan(read_sweep(toml))


def test_a_texture_folder_that_is_not_there(toml: Path) -> None:
    changed(toml, 'presets = ["edge"]', 'methods = ["cls-cnf"]')
    text = toml.read_text("utf-8")
    new = '[set]\nhybrid = { textures = { folder = "absent" } }'
    toml.write_text(text[: text.index("[set]")] + new, "utf-8")
    with pytest.raises(DataError, match="absent: no such folder of textures"):
        plan(read_sweep(toml))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--engine", "slurm"], "expected local or ray"),
        (["--address", "auto"], "give --engine ray with it"),
        (["--out", "{file}"], "is a file"),
        (["--out", "{folder}"], "holds files but no sweep"),
    ],
)
def test_a_bad_option(toml: Path, tiny: Sweep, words: list[str], message: str) -> None:
    places = {"file": str(toml), "folder": str(toml.parent)}
    given = [word.format(**places) for word in words]
    for command in (["sweep", str(toml), *given], ["sweep", str(toml), *given, "--plan"]):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == InputError.exit_code, done.output
        assert message in " ".join(done.stderr.split())
