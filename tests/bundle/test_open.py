"""Opening a bundle: every changed byte, every strange file and every unsafe content is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from sanflow import imaging
from sanflow.bundle import Bundle, manifest, spelling, write_bundle
from sanflow.bundle.contents import PAGE_HEAD
from sanflow.errors import BundleError, ConfigError


def test_what_was_written_is_what_is_read(bundle: Bundle, contents: dict[str, bytes]) -> None:
    opened = Bundle.open(bundle.path)
    assert opened == bundle
    assert {name: opened.read(name) for name in contents} == contents
    goldens = opened.goldens()
    assert [g.score for g in goldens] == [i / 8 for i in range(8)]
    for index, golden in enumerate(goldens):
        assert golden.image.flatten().tolist() == list(range(index * 12, index * 12 + 12))
        assert golden.map.flatten().tolist() == list(range(index * 4, index * 4 + 4))
    assert opened.batch == 1
    assert opened.pixel_path == imaging.PixelPath(2, 2)


def test_every_single_byte_change_of_every_file_is_refused(bundle: Bundle) -> None:
    """One bit of every byte; the message names the changed file."""
    changes = 0
    for name in bundle.manifest.files:
        path = bundle.path / name
        good = path.read_bytes()
        with path.open("r+b", buffering=0) as file:
            for at, byte in enumerate(good):
                os.pwrite(file.fileno(), bytes([byte ^ 1 << at % 8]), at)
                with pytest.raises(BundleError, match=rf": {name}: sha256 is .* altered"):
                    Bundle.open(bundle.path)
                os.pwrite(file.fileno(), good[at : at + 1], at)
                changes += 1
    assert changes == sum(entry.bytes for entry in bundle.manifest.files.values())
    assert Bundle.open(bundle.path) == bundle


def test_every_single_byte_change_of_the_manifest_is_refused(bundle: Bundle) -> None:
    """One bit of every byte; every hundredth through the disk, as a user would meet it."""
    path = bundle.path / "manifest.json"
    good = path.read_bytes()
    for at, byte in enumerate(good):
        changed = good[:at] + bytes([byte ^ 1 << at % 8]) + good[at + 1 :]
        with pytest.raises(ConfigError, match=r"^manifest"):
            spelling.parse(changed)
        if at % 100 == 0:
            path.write_bytes(changed)
            with pytest.raises(BundleError, match=r": manifest\.json: manifest"):
                Bundle.open(bundle.path)


def test_every_value_of_some_bytes_is_refused(bundle: Bundle) -> None:
    """All 255 other values at places spread over the manifest, digest and white space included."""
    data = (bundle.path / "manifest.json").read_bytes()
    places = {*range(0, len(data), len(data) // 8), len(data) - 1, data.index(b'"digest": "') + 11}
    for at in places:
        for value in set(range(256)) - {data[at]}:
            with pytest.raises(ConfigError):
                spelling.parse(data[:at] + bytes([value]) + data[at + 1 :])


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def link(path: Path) -> None:
    """The same bytes, but outside the bundle."""
    outside = path.parents[2] / "outside" if path.parent.name == "golden" else path.parents[1]
    outside.mkdir(exist_ok=True)
    path.rename(outside / "moved")
    path.symlink_to(outside / "moved")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("model.onnx", Path.unlink, "model.onnx: is missing"),
        ("golden/maps.npy", Path.unlink, "golden/maps.npy: is missing"),
        ("model.onnx", shorten, r"model.onnx: \d+ bytes, the manifest says \d+"),
        ("model.onnx", lengthen, r"model.onnx: \d+ bytes, the manifest says \d+"),
        ("model.onnx", link, "model.onnx: is a symbolic link"),
        ("manifest.json", link, "manifest.json: is a symbolic link"),
        ("golden", link, "golden: is a symbolic link"),
        ("golden/000.png", link, "golden/000.png: is a symbolic link"),
        ("model.onnx", pipe, "model.onnx: is not a regular file"),
        ("manifest.json", pipe, "manifest.json: is not a regular file"),
        ("model.onnx", folder, "model.onnx/: is not in the manifest"),
        ("manifest.json", Path.unlink, "no manifest.json inside"),
        ("model.onnx.data", Path.touch, "model.onnx.data: is not in the manifest; remove it"),
        ("golden/.DS_Store", Path.touch, "golden/.DS_Store: is not in the manifest"),
        ("Model.onnx", Path.touch, "Model.onnx: is not in the manifest"),
        ("extra", Path.mkdir, "extra/: is not in the manifest"),
    ],
)
def test_strange_folders_are_refused(
    bundle: Bundle, name: str, change: Callable[[Path], object], reason: str
) -> None:
    change(bundle.path / name)
    with pytest.raises(BundleError, match=reason):
        Bundle.open(bundle.path)


def test_a_link_to_the_whole_bundle_is_followed_once(bundle: Bundle, tmp_path: Path) -> None:
    """How a line switches versions: what was opened stays what it was."""
    (tmp_path / "current").symlink_to(bundle.path)
    opened = Bundle.open(tmp_path / "current")
    (tmp_path / "current").unlink()
    assert opened.read("model.onnx") == bundle.read("model.onnx")


def test_what_is_no_bundle_at_all(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"missing: no such folder; give the folder"):
        Bundle.open(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="not a bundle folder"):
        Bundle.open(tmp_path / "file")
    with pytest.raises(BundleError, match=r"no manifest\.json inside"):
        Bundle.open(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="no modes there")
@pytest.mark.parametrize(
    ("name", "mode"),
    [("..", 0), (".", 0), (".", 0o444), ("golden", 0), ("model.onnx", 0), ("manifest.json", 0)],
)
def test_what_this_user_may_not_read_is_said(bundle: Bundle, name: str, mode: int) -> None:
    """As where one user has exported and a service of another judges."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to other users
        os.chmod(folder, 0o755)
        copied = Path(shutil.copytree(bundle.path, Path(folder, "above", "bundle")))
        place = copied / name
        usual = place.stat().st_mode
        place.chmod(mode)
        try:
            if root := os.geteuid() == 0:
                os.seteuid(65534)
            with pytest.raises(BundleError, match="cannot be read: Permission denied"):
                Bundle.open(copied)
        finally:
            if root:
                os.seteuid(0)
            place.chmod(usual)


def test_an_oversize_manifest_is_not_read(bundle: Bundle) -> None:
    with (bundle.path / "manifest.json").open("r+b") as file:
        file.truncate(2**40)  # sparse: costs nothing unless somebody reads it
    with pytest.raises(BundleError, match=r"1099511627776 bytes, the limit is 16777216"):
        Bundle.open(bundle.path)


def test_an_oversize_file_is_not_read(bundle: Bundle) -> None:
    huge = manifest.FileEntry("0" * 64, 2**31)
    files = {**bundle.manifest.files, "model.onnx": huge}
    forged = dataclasses.replace(bundle.manifest, files=files)
    forged = dataclasses.replace(forged, digest=spelling.digest(forged))
    (bundle.path / "manifest.json").write_bytes(spelling.serialise(forged))
    with pytest.raises(BundleError, match=r"model\.onnx: 2147483648 bytes .* limit is 2147483647"):
        Bundle.open(bundle.path)


def test_a_file_swapped_after_opening_is_found_when_it_is_read(bundle: Bundle) -> None:
    data = bytearray(bundle.read("model.onnx"))
    data[-1] ^= 1
    (bundle.path / "model.onnx").write_bytes(data)
    with pytest.raises(BundleError, match=r"model\.onnx: sha256 is .* altered or damaged"):
        bundle.read("model.onnx")


def test_a_copy_is_the_file_that_was_opened(bundle: Bundle, tmp_path: Path) -> None:
    """In pieces: only the hash over all of them tells that the last byte is another."""
    (tmp_path / "copies").mkdir()
    copy = bundle.copy("model.onnx", tmp_path / "copies")
    assert copy == tmp_path / "copies" / "model.onnx"
    data = bytearray(bundle.read("model.onnx"))
    assert copy.read_bytes() == data
    data[-1] ^= 1
    (bundle.path / "model.onnx").write_bytes(data)
    assert copy.read_bytes() != data
    copy.unlink()
    with pytest.raises(BundleError, match=r"model\.onnx: sha256 is .* altered or damaged"):
        bundle.copy("model.onnx", tmp_path / "copies")


def test_a_large_file_is_copied_piece_by_piece(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 20 * 2**20
    (bundle.path / "large").write_bytes(bytes(size))
    entry = manifest.FileEntry(hashlib.sha256(bytes(size)).hexdigest(), size)
    files = {**bundle.manifest.files, "large": entry}
    larger = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, files=files))
    tracemalloc.start()
    copy = larger.copy("large", tmp_path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert copy.stat().st_size == size
    assert most < size / 4


def test_only_listed_files_can_be_read(bundle: Bundle) -> None:
    (bundle.path.parent / "secret").write_text("x")
    for name in ("../secret", "manifest.json", "/etc/hostname", ""):
        with pytest.raises(BundleError, match="is not a file of this bundle"):
            bundle.read(name)
        with pytest.raises(BundleError, match="is not a file of this bundle"):
            bundle.copy(name, bundle.path.parent / "nowhere")


def array(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values, allow_pickle=True)
    return stream.getvalue()


MAPS = np.zeros((8, 2, 2), np.float32)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("golden/000.png", imaging.encode_png(np.zeros((2, 3, 3), np.uint8)), "it is 3x2"),
        ("golden/007.png", imaging.encode_png(np.zeros((4, 2, 3), np.uint8)), "it is 2x4"),
        ("golden/000.png", imaging.encode_png(np.zeros((2, 2), np.uint8)), "colour type 0"),
        ("golden/000.png", b"GIF89a" + bytes(40), "it is not a PNG image"),
        ("golden/000.png", b"\x89PNG", "it is not a PNG image"),
        ("report.html", b"<html><script>alert(1)</script></html>", "the policy that keeps scripts"),
        ("report.html", PAGE_HEAD.encode() + b'<META HTTP-EQUIV="refresh">', "beside that policy"),
        ("golden/maps.npy", array(MAPS[:7]), r"expected .*'shape': \(8, 2, 2\)"),
        ("golden/maps.npy", array(MAPS.astype(np.float64)), "its header is .*f8"),
        ("golden/maps.npy", array(MAPS.astype(">f4")), "its header is .*>f4"),
        (
            "golden/maps.npy",
            array(np.asfortranarray(MAPS)),
            "its header is .*'fortran_order': True",
        ),
        ("golden/maps.npy", array(np.array([{}], object)), "its header is .*'|O'"),
        ("golden/maps.npy", array(MAPS)[:-4], "it holds 124 bytes of values, expected 128"),
        ("golden/maps.npy", b"PK\x03\x04" + bytes(100), "not a NumPy array file"),
        ("model.onnx", b"garbage", "model.onnx: "),
    ],
)
def test_contents_that_contradict_the_manifest_are_refused_hashes_and_all(
    tmp_path: Path,
    draft: manifest.Manifest,
    contents: dict[str, bytes],
    name: str,
    data: bytes,
    reason: str,
) -> None:
    with pytest.raises(BundleError, match=reason):
        write_bundle(tmp_path / "bundle", draft, {**contents, name: data})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("xml", "reason"),
    [
        (b'<?xml version="1.0"?><!DOCTYPE net SYSTEM "file:///etc/passwd"><net/>', "document type"),
        (b'<?xml version="1.0"?><!ENTITY x SYSTEM "y"><net/>', "document type or an entity"),
        ('<?xml version="1.0"?><!DOCTYPE net><net/>'.encode("utf-16"), "single-byte text"),
        (b"<net/>", "not an XML file"),
    ],
)
def test_unsafe_ir_is_refused(
    tmp_path: Path,
    draft: manifest.Manifest,
    contents: dict[str, bytes],
    xml: bytes,
    reason: str,
) -> None:
    files = manifest.graph_files("openvino", "fp32")
    graph = dataclasses.replace(draft.graph(), files=files)
    draft = dataclasses.replace(draft, target="openvino", graphs=(graph,))
    contents.pop("model.onnx")
    good = b'<?xml version="1.0"?><net/>'
    write_bundle(tmp_path / "good", draft, {**contents, "model.xml": good, "model.bin": b"1"})
    with pytest.raises(BundleError, match=f"model.xml: .*{reason}"):
        write_bundle(tmp_path / "bad", draft, {**contents, "model.xml": xml, "model.bin": b"1"})


def test_external_data_as_onnx_writes_it_is_refused(
    tmp_path: Path, draft: manifest.Manifest, contents: dict[str, bytes]
) -> None:
    model = onnx.load_from_string(contents["model.onnx"])
    model.graph.initializer[0].CopyFrom(
        onnx.numpy_helper.from_array(np.ones(1000, np.float32), "scale")
    )
    onnx.save(
        model, tmp_path / "m.onnx", save_as_external_data=True, location="w", size_threshold=0
    )
    with pytest.raises(BundleError, match=r"model\.onnx: a tensor keeps its data in an external"):
        write_bundle(
            tmp_path / "bundle",
            draft,
            {**contents, "model.onnx": (tmp_path / "m.onnx").read_bytes()},
        )


def test_opening_needs_numpy_and_opencv_only(bundle: Bundle) -> None:
    """No parser and no training package is even imported."""
    code = (
        "import sys\n"
        "from sanflow.bundle import Bundle\n"
        "Bundle.open(sys.argv[1]).goldens()\n"
        "heavy = {'torch', 'torchvision', 'onnx', 'onnxruntime', 'openvino', 'scipy', 'sklearn'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundle.path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
