"""Exit codes are a contract with scripts: the documented table is the code."""

from __future__ import annotations

import inspect
import re

from sanflow import errors

CLASSES = {
    name: cls
    for name, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, Exception) and cls.__module__ == errors.__name__
}


def test_the_table_in_the_docstring_is_what_the_classes_do() -> None:
    """Each line `Name  code` of the docstring is that class's exit code; none is missing."""
    lines = re.findall(r"^[ │├└─]{4,}(\w+)\s+(\d+)\s{2,}", errors.__doc__ or "", re.MULTILINE)
    assert {name: int(code) for name, code in lines} == {
        name: cls.exit_code for name, cls in CLASSES.items()
    }


def test_one_except_catches_everything() -> None:
    assert CLASSES
    assert all(issubclass(cls, errors.SanflowError) for cls in CLASSES.values())


def test_exit_codes_never_mean_success_or_a_finished_run_with_undecided_images() -> None:
    """0 is success, 3 is `infer` finishing with undecided images; a shell uses 126 and more.

    Its own code for Ctrl-C, 130, is what a script expects of an interrupted command.
    """
    failures = [cls for cls in CLASSES.values() if cls is not errors.Interrupted]
    assert errors.Interrupted.exit_code == 130
    assert all(cls.exit_code not in {0, 3} and cls.exit_code < 126 for cls in failures)


def test_codes_differ_between_the_branches_a_script_must_tell_apart() -> None:
    branches = [cls for cls in CLASSES.values() if cls.__base__ is errors.SanflowError]
    codes = [errors.SanflowError.exit_code] + [cls.exit_code for cls in branches]
    assert len(set(codes)) == len(codes)
