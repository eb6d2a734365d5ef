"""Every image of a data set is looked at once, before training spends an hour on it.

Files are read by threads, one decoded image per thread at a time, so memory does not grow with
their number. What is wrong is collected, never raised: one report names everything.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import DataError, ImageError
from ..imaging import (
    DecodeError,
    another_shape,
    decode,
    pixel_sha256,
    read_bytes,
    read_mask,
    too_few,
)
from .config import DataConfig
from .layout import Dataset, Sample

THREADS = 4
LISTED = 20
"""Files that are listed per problem, for people."""
ALIKE = 0.9
"""From this share of images of one shape on, another shape is a mistake."""


@dataclass(frozen=True)
class Finding:
    """One file that cannot be used, or not twice.

    `problem` is empty, unreadable, truncated, unsupported type, blank, wrong size or duplicate.
    """

    path: Path
    problem: str
    detail: str


@dataclass(frozen=True)
class Report:
    """What was found, and the data set that is left without it."""

    dataset_without_bad: Dataset
    findings: tuple[Finding, ...]
    content_hashes: dict[Path, str]
    """sha256 of each readable image file."""
    fingerprint: str
    """sha256 over role, relative path and content of every image that is left."""
    size: tuple[int, int] | None
    """(height, width) of the good images that are left, where all have the same."""

    def text(self) -> str:
        """The findings, a line each under a heading per problem, and how many images are left."""
        dataset = self.dataset_without_bad
        left = ", ".join(f"{len(s)} {role}" for role, s in dataset.roles().items())
        if not self.findings:
            return f"{dataset.root}: every image can be used ({dataset.layout} layout: {left})"
        by_problem: dict[str, list[Finding]] = defaultdict(list)
        for finding in self.findings:
            by_problem[finding.problem].append(finding)
        count = f"{len(self.findings)} file{'s' if len(self.findings) > 1 else ''}"
        lines = [f"{dataset.root}: {count} cannot be used ({dataset.layout} layout)"]
        for problem, found in sorted(by_problem.items()):
            lines.append(f"{problem} ({len(found)}):")
            lines += [f"  {dataset.relative(f.path)}: {f.detail}" for f in found[:LISTED]]
            if len(found) > LISTED:
                lines.append(f"  and {len(found) - LISTED} more; `sanflow check --json` has all")
        return "\n".join((*lines, f"without them: {left}"))


def require_good_parts(report: Report) -> None:
    """Raise DataError with the whole report where too little is left to train and to calibrate."""
    roles = report.dataset_without_bad.roles()
    if empty := [role for role in ("train", "calibrate") if not roles[role]]:
        raise DataError(
            f"{report.text()}\nno good part is left to {' or to '.join(empty)} with; mend these "
            "images, or add good parts"
        )


@dataclass(frozen=True)
class _Seen:
    """What one image file turned out to be."""

    sample: Sample
    content: str = ""
    pixels: str = ""
    size: tuple[int, int] | None = None
    """Height and width."""
    findings: tuple[Finding, ...] = ()


def check_dataset(
    dataset: Dataset,
    config: DataConfig,
    progress: Callable[[int, int], None] | None = None,
    *,
    size: tuple[int, int] = (1, 1),
) -> Report:
    """Read every image and mask of all roles; `progress(done, total)` is called after each.

    `size` is the model's (height, width): far smaller images are findings.
    """
    seen = list(_look(dataset, config, size, progress))
    findings = [finding for one in seen for finding in one.findings]
    findings += [
        Finding(path, "unsupported type", "nothing here reads this format; save it as PNG")
        for path in dataset.unsupported
    ]
    findings += _odd_sizes(seen)
    findings += _duplicates(dataset, [one for one in seen if not one.findings])
    bad = {finding.path for finding in findings}

    def usable(samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
        return tuple(s for s in samples if s.path not in bad and s.mask not in bad)

    good = {s.path for s in usable(dataset.train + dataset.calibrate)}
    sizes = {one.size for one in seen if one.sample.path in good}
    size_of_all = sizes.pop() if len(sizes) == 1 else None
    if size_of_all is not None:
        tested = {s.path for s in usable(dataset.test)}
        foreign = _foreign([s for s in seen if s.sample.path in tested], size_of_all, config)
        findings += foreign
        bad |= {finding.path for finding in foreign}

    hashes = {one.sample.path: one.content for one in seen if one.content}
    remaining = replace(
        dataset,
        train=usable(dataset.train),
        calibrate=usable(dataset.calibrate),
        test=usable(dataset.test),
    )
    order = sorted(findings, key=lambda f: (f.problem, str(f.path)))
    fingerprint = _fingerprint(remaining, hashes)
    return Report(remaining, tuple(order), hashes, fingerprint, size_of_all)


def _look(
    dataset: Dataset,
    config: DataConfig,
    size: tuple[int, int],
    progress: Callable[[int, int], None] | None,
) -> Iterator[_Seen]:
    samples = [s for role in dataset.roles().values() for s in role]
    with ThreadPoolExecutor(THREADS, thread_name_prefix="sanflow-check") as pool:
        for done, seen in enumerate(
            pool.map(lambda s: _look_at(s, config, size), samples), start=1
        ):
            if progress:
                progress(done, len(samples))
            yield seen


def _look_at(sample: Sample, config: DataConfig, size: tuple[int, int]) -> _Seen:
    path = sample.path
    try:
        data = read_bytes(path)
        image = decode(data, str(path))
    except DecodeError as error:
        return _Seen(sample, findings=(Finding(path, error.problem, error.detail),))
    findings = []
    height, width = image.shape[:2]
    if config.roi is not None and config.roi.outside(height, width):
        r = config.roi
        detail = (
            f"the image is {width}x{height} (width x height); the region of interest "
            f"{r.x},{r.y},{r.width},{r.height} (x,y,width,height) lies outside"
        )
        findings.append(Finding(path, "wrong size", detail))
    elif problem := too_few(_region(config, height, width), size):
        findings.append(Finding(path, "wrong size", problem))
    if height * width > 1 and (image == image[0, 0]).all():
        findings.append(Finding(path, "blank", f"every pixel is {image[0, 0].tolist()}"))
    if sample.mask is not None:
        findings += _mask_findings(sample.mask, height, width)
    content, pixels = hashlib.sha256(data).hexdigest(), pixel_sha256(image)
    return _Seen(sample, content, pixels, (height, width), tuple(findings))


def _region(config: DataConfig, height: int, width: int) -> tuple[int, int]:
    """Height and width of what the model sees of an image."""
    return (height, width) if config.roi is None else (config.roi.height, config.roi.width)


def _mask_findings(path: Path, height: int, width: int) -> list[Finding]:
    try:
        mask = read_mask(path)
    except DecodeError as error:
        return [Finding(path, error.problem, error.detail)]
    except ImageError as error:
        return [Finding(path, "unreadable", str(error))]
    if mask.shape != (height, width):
        detail = f"the mask is {mask.shape[1]}x{mask.shape[0]}, its image {width}x{height}"
        return [Finding(path, "wrong size", detail)]
    return []


def _odd_sizes(seen: list[_Seen]) -> list[Finding]:
    """Images of another shape, where nearly all have one and the same."""
    sizes = [one.size for one in seen if one.size is not None]
    if not sizes:
        return []
    (usual, count), *_ = Counter(sizes).most_common(1)
    if count < ALIKE * len(sizes):
        return []
    findings = []
    for one in seen:
        if one.size is None or one.findings or not another_shape(one.size, usual):
            continue
        (height, width), share = one.size, f"{count} of {len(sizes)} images"
        detail = f"{width}x{height} (width x height); {share} are {usual[1]}x{usual[0]}"
        findings.append(Finding(one.sample.path, "wrong size", detail))
    return findings


def _foreign(seen: list[_Seen], usual: tuple[int, int], config: DataConfig) -> list[Finding]:
    """Test images that a model of good images of this size does not judge (imaging.PixelPath)."""
    findings = []
    for one in seen:
        if one.size is None or one.size == usual:
            continue
        if config.roi is None and not another_shape(one.size, usual):
            continue
        (height, width), why = one.size, " and cut to a region" if config.roi else ""
        detail = f"{width}x{height} (width x height); good images are {usual[1]}x{usual[0]}{why}"
        findings.append(Finding(one.sample.path, "wrong size", detail))
    return findings


def _duplicates(dataset: Dataset, seen: list[_Seen]) -> list[Finding]:
    """All but one of the images with equal pixels; the one kept is the one judged hardest."""
    # A copy in test makes the figures lie if training sees it, so test keeps its copy.
    rank = {
        s.path: (order, str(s.path))
        for order, role in enumerate(("test", "calibrate", "train"))
        for s in dataset.roles()[role]
    }
    roles = {s.path: role for role, samples in dataset.roles().items() for s in samples}
    alike: dict[str, list[Path]] = defaultdict(list)
    for one in seen:
        alike[one.pixels].append(one.sample.path)
    findings = []
    for paths in alike.values():
        kept, *copies = sorted(paths, key=lambda p: rank[p])
        for path in copies:
            detail = f"the same pixels as {dataset.relative(kept)}"
            if roles[path] != roles[kept]:
                detail += f", which is in {roles[kept]}; this one is in {roles[path]}"
            findings.append(Finding(path, "duplicate", detail))
    return findings


def _fingerprint(dataset: Dataset, hashes: dict[Path, str]) -> str:
    digest = hashlib.sha256()
    for role, samples in sorted(dataset.roles().items()):
        for name, content in sorted((dataset.relative(s.path), hashes[s.path]) for s in samples):
            digest.update(f"{role}\t{name}\t{content}\n".encode())
    return digest.hexdigest()
