"""Running the builder in a child process: what to give it, what it says, how it can end."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ... import schema
from ...errors import EngineError
from ..machine import child_command, child_environment
from .child import Job
from .messages import KILLED, explain

Progress = Callable[[str, int, int], None]
"""Called with the builder's phase, and how many of its steps are done."""

_CHILD = f"{__package__}.child"
_TAIL = 5
_SIGKILL = 9  # the signal module of Windows has no name for it


@dataclass
class Built:
    """What came of a build that went well."""

    seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)


def run(job: Job, timings: bytes, graph: bytes, log: Path, progress: Progress) -> Built:
    """Build `job` from the bytes of its graph; NVIDIA's whole log goes to `log`.

    Raises EngineError if the builder refuses, is killed, or crashes.
    """
    built, error = Built(), ""
    tail: deque[str] = deque(maxlen=_TAIL)
    header = json.dumps(schema.dump(job)).encode() + b"\n"
    with log.open("w", encoding="utf-8") as lines, _started(lines) as child:
        writer = threading.Thread(
            target=_feed, args=(child.stdin, (header, timings, graph)), daemon=True
        )
        writer.start()
        assert child.stdout is not None
        for event in _events(child.stdout):
            if "phase" in event:
                progress(event["phase"], event["done"], event["total"])
            elif "log" in event:
                lines.write(f"{event['log']}: {event['text']}\n")
                if event["log"] == "error":
                    tail.append(event["text"])
                elif event["log"] == "warning":
                    built.warnings.append(event["text"])
            elif "built" in event:
                built.seconds = event["built"]
            else:
                error = event.get("error", "")
        writer.join()
        code = child.wait()
    if error:
        raise EngineError(error)
    if code:
        raise EngineError(_ending(code, job, tail, log))
    return built


@contextmanager
def _started(lines: IO[str]) -> Iterator[subprocess.Popen[bytes]]:
    """The child; whatever happens here, it does not go on without us."""
    child = subprocess.Popen(
        child_command(_CHILD),
        env=child_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=lines,
    )
    with child:  # its end waits for the child, so an interrupt has to kill it before
        try:
            yield child
        except BaseException:
            child.kill()
            raise


def _feed(pipe: IO[bytes] | None, parts: tuple[bytes, ...]) -> None:
    assert pipe is not None
    try:
        with pipe:
            for part in parts:
                pipe.write(part)
    except BrokenPipeError:
        return  # the child has ended; its exit code says why


def _events(pipe: IO[bytes]) -> Iterator[dict[str, Any]]:
    for line in pipe:
        try:
            yield json.loads(line)
        except ValueError:
            return  # cut off in the middle of a line: the exit code says why


def _ending(code: int, job: Job, tail: deque[str], log: Path) -> str:
    """Why a child ended without a word of its own."""
    said = f"; TensorRT's last words: {' / '.join(tail)}" if tail else ""
    if code == -_SIGKILL:
        says, fix = KILLED
        return f"{job.product}: {says}; {fix}{said}"
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return (
            f"{job.product}: the build crashed inside NVIDIA's builder ({name}){said}; the log is "
            f"{log}; update TensorRT, or use --precision fp32"
        )
    last = log.read_text("utf-8", "replace").strip().splitlines()[-1:] or [f"exit code {code}"]
    return f"{job.product}: the build failed: {explain(last[0])}; the log is {log}"
