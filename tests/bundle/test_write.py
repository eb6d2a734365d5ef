"""Writing a bundle: the old one or the whole new one, whatever happens in between."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sanflow.bundle import (
    Bundle,
    Decision,
    manifest,
    staged_bundle,
    with_decisions,
    write,
    write_bundle,
)
from sanflow.errors import ConfigError, InputError

Contents = dict[str, bytes]


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below, hidden ones too."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_folders_above_are_made(
    tmp_path: Path, draft: manifest.Manifest, contents: Contents
) -> None:
    made = write_bundle(tmp_path / "a" / "b", draft, contents)
    assert made.path == (tmp_path / "a" / "b").resolve()
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b"]


def test_an_empty_folder_is_taken_over(
    tmp_path: Path, draft: manifest.Manifest, contents: Contents
) -> None:
    (tmp_path / "out").mkdir()
    assert write_bundle(tmp_path / "out", draft, contents) == Bundle.open(tmp_path / "out")


def test_a_bundle_is_replaced_only_with_force(
    bundle: Bundle, draft: manifest.Manifest, contents: Contents
) -> None:
    before = tree(bundle.path.parent)
    newer = dataclasses.replace(draft, created="2027-01-01T00:00:00Z")
    with pytest.raises(InputError, match=r"a bundle is there already; replace it with --force"):
        write_bundle(bundle.path, newer, contents)
    assert tree(bundle.path.parent) == before
    assert write_bundle(bundle.path, newer, contents, force=True).manifest.created.startswith(
        "2027"
    )
    assert [p.name for p in bundle.path.parent.iterdir()] == [bundle.path.name]


@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_bundle_is_never_overwritten(
    tmp_path: Path, draft: manifest.Manifest, contents: Contents, force: bool
) -> None:
    precious = tmp_path / "photos"
    precious.mkdir()
    (precious / "part.png").write_bytes(b"x")
    other = tmp_path / "browser extension"
    other.mkdir()
    (other / "manifest.json").write_bytes(b"{}")
    for folder in (precious, other):
        with pytest.raises(InputError, match="is no bundle, so it is left alone"):
            write_bundle(folder, draft, contents, force=force)
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(InputError, match="is not a folder"):
        write_bundle(tmp_path / "file", draft, contents, force=force)
    (tmp_path / "link").symlink_to(precious)
    with pytest.raises(InputError, match="is not a folder"):
        write_bundle(tmp_path / "link", draft, contents, force=force)
    assert sorted(tree(tmp_path)) == [
        *("browser extension/manifest.json", "file", "photos/part.png"),
    ]


def test_the_block_sees_the_whole_bundle_before_it_takes_its_place(
    tmp_path: Path, draft: manifest.Manifest, contents: Contents
) -> None:
    with staged_bundle(tmp_path / "b", draft, contents) as staged:
        assert not (tmp_path / "b").exists()
        assert len(staged.goldens()) == len(draft.golden)
    assert Bundle.open(tmp_path / "b").manifest == staged.manifest


def test_a_failure_inside_the_block_leaves_nothing(
    tmp_path: Path, draft: manifest.Manifest, contents: Contents
) -> None:
    with pytest.raises(RuntimeError), staged_bundle(tmp_path / "b", draft, contents):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_a_failure_inside_the_block_keeps_the_old_bundle(
    bundle: Bundle, draft: manifest.Manifest, contents: Contents
) -> None:
    before = tree(bundle.path.parent)
    with pytest.raises(RuntimeError), staged_bundle(bundle.path, draft, contents, force=True):
        raise RuntimeError
    assert tree(bundle.path.parent) == before


def test_an_inconsistent_draft_is_refused_before_anything_is_written(
    tmp_path: Path, draft: manifest.Manifest, contents: Contents
) -> None:
    contents.pop("golden/004.png")
    with pytest.raises(ConfigError, match=r"'golden/004.png' is missing"):
        write_bundle(tmp_path / "b", draft, contents)
    assert not list(tmp_path.iterdir())


class Cut(BaseException):
    """The power goes."""


def cut_at(monkeypatch: pytest.MonkeyPatch, moment: int) -> list[str]:
    """Let the `moment`-th change of the disk be the first that does not happen any more."""
    done: list[str] = []

    def wrap(name: str, real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if len(done) >= moment:
                raise Cut
            done.append(name)
            return real(*args, **kwargs)

        return call

    for name in ("rename", "replace", "fsync", "mkdir", "rmdir", "unlink"):
        monkeypatch.setattr(os, name, wrap(name, getattr(os, name)))
    monkeypatch.setattr(write.shutil, "rmtree", lambda *a, **k: None)
    return done


@pytest.mark.parametrize("replacing", [False, True])
def test_a_power_cut_at_any_moment_leaves_the_old_or_the_new_bundle(
    tmp_path: Path, draft: manifest.Manifest, contents: Contents, replacing: bool
) -> None:
    old = write_bundle(tmp_path / "old", draft, contents).manifest
    newer = dataclasses.replace(draft, created="2027-01-01T00:00:00Z")
    moments = set()
    for moment in range(100):
        out = tmp_path / str(moment) / "bundle"
        if replacing:
            write_bundle(out, draft, contents)
        with pytest.MonkeyPatch.context() as patch:
            done = cut_at(patch, moment)
            try:
                write_bundle(out, newer, contents, force=replacing)
            except Cut:
                moments.add(done[-1] if done else "start")
            else:
                break
        if replacing or out.exists():
            found = Bundle.open(out).manifest
            assert found.created == newer.created or (replacing and found == old)
    assert Bundle.open(out).manifest.created == newer.created
    assert {"start", "mkdir", "fsync"} <= moments


def test_where_folders_cannot_be_exchanged_they_are_renamed(
    bundle: Bundle,
    draft: manifest.Manifest,
    contents: Contents,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(write, "_exchange", lambda stage, target: False)
    newer = dataclasses.replace(draft, created="2027-01-01T00:00:00Z")
    assert write_bundle(bundle.path, newer, contents, force=True).manifest.created[:4] == "2027"
    assert [entry.name for entry in bundle.path.parent.iterdir()] == [bundle.path.name]


def test_a_failed_swap_puts_the_old_bundle_back(
    bundle: Bundle,
    draft: manifest.Manifest,
    contents: Contents,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = tree(bundle.path.parent)
    real, calls = os.rename, []

    def rename(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(write, "_exchange", lambda stage, target: False)
    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(InputError, match=r"cannot be written: .*No space left"):
        write_bundle(bundle.path, draft, contents, force=True)
    assert tree(bundle.path.parent) == before


def test_a_decision_changes_the_manifest_alone(bundle: Bundle) -> None:
    before = tree(bundle.path.parent)
    decision = Decision(0.5, None, 0.4, 0.6, 0.0, 2.0)
    changed = with_decisions(bundle, [decision])
    assert changed.manifest == dataclasses.replace(
        bundle.manifest,
        graphs=(dataclasses.replace(bundle.manifest.graph(), decision=decision),),
        digest=changed.manifest.digest,
    )
    assert changed.manifest.digest != bundle.manifest.digest
    after = tree(bundle.path.parent)
    assert {name for name in after if after[name] != before.get(name)} == {"bundle/manifest.json"}
    assert with_decisions(changed, [bundle.manifest.graph().decision]).manifest == bundle.manifest


@pytest.mark.parametrize(
    ("decision", "seen"),
    [
        (Decision(1, None, 0, 2, 0, 3), Decision(1.0, None, 0.0, 2.0, 0.0, 3.0)),
        (Decision(0.5, None, 0.0, 1.0, 0.0, float("inf")), None),
        (Decision(np.float32(0.5), None, 0.0, 1.0, 0.0, 1.0), None),
    ],
)
def test_a_decision_that_cannot_be_read_back_is_not_written(
    bundle: Bundle, decision: Decision, seen: Decision | None
) -> None:
    """Whole numbers are fine; what would make the bundle refusable never reaches the disk."""
    if seen is not None:
        assert with_decisions(bundle, [decision]).manifest.graph().decision == seen
    else:
        with pytest.raises(ConfigError, match=r"manifest\.graphs\[0\]\.decision"):
            with_decisions(bundle, [decision])
        assert Bundle.open(bundle.path) == bundle


def test_a_power_cut_while_deciding_leaves_a_whole_bundle(bundle: Bundle) -> None:
    decision = Decision(0.5, None, 0.4, 0.6, 0.0, 2.0)
    for moment in range(10):
        with pytest.MonkeyPatch.context() as patch:
            cut_at(patch, moment)
            try:
                with_decisions(bundle, [decision])
            except Cut:
                seen = Bundle.open(bundle.path).manifest.graph().decision
                assert seen in (decision, bundle.manifest.graph().decision)
            else:
                break
    assert Bundle.open(bundle.path).manifest.graph().decision == decision
    assert moment >= 3


def test_a_bundle_on_a_full_or_read_only_disk_says_so(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match=r"manifest\.json: cannot be written: .*Read-only"):
        with_decisions(bundle, [bundle.manifest.graph().decision])


def test_a_bundle_that_is_a_mount_of_its_own_is_decided(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container: beside it lies another disk."""
    replace = os.replace

    def within_a_disk(source: Path, target: Path) -> None:
        if Path(source).parent != Path(target).parent:
            raise OSError(18, "Invalid cross-device link")
        replace(source, target)

    monkeypatch.setattr(os, "replace", within_a_disk)
    decision = dataclasses.replace(bundle.manifest.graph().decision, display_high=1.75)
    assert with_decisions(bundle, [decision]).manifest.graph().decision == decision
    assert not list(bundle.path.parent.glob(".*.tmp")) + list(bundle.path.glob(".*.tmp"))
