"""The machinery of the unit tests: run a module in-process and see what it returned."""

from __future__ import annotations

import typing as t
from collections.abc import Callable
from types import ModuleType

import pytest
from ansible.module_utils.basic import AnsibleModule
from hypothesis import HealthCheck, settings

# How long an example takes says what else the machine does.
settings.register_profile("llmfleet", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("llmfleet")

try:
    from ansible.module_utils.testing import patch_module_args
except ImportError:  # ansible-core 2.17 has no such helper yet
    import contextlib
    import json

    from ansible.module_utils import basic

    @contextlib.contextmanager
    def patch_module_args(args: dict[str, t.Any]) -> t.Iterator[None]:
        before = basic._ANSIBLE_ARGS
        basic._ANSIBLE_ARGS = json.dumps({"ANSIBLE_MODULE_ARGS": args}).encode()
        try:
            yield
        finally:
            basic._ANSIBLE_ARGS = before


Result = dict[str, t.Any]


class _Ended(Exception):
    """The module ended, well or badly."""

    def __init__(self, result: Result) -> None:
        self.result = result


@pytest.fixture
def run_module(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """`run_module(gguf_merge, src=..., dest=..., check=True)` returns what the module returned."""

    def exit_json(_self: AnsibleModule, **result: t.Any) -> t.NoReturn:
        raise _Ended(result)

    def fail_json(_self: AnsibleModule, msg: str, **result: t.Any) -> t.NoReturn:
        raise _Ended({"failed": True, "msg": msg, **result})

    def run(module: ModuleType, *, check: bool = False, **params: t.Any) -> Result:
        with patch_module_args({**params, "_ansible_check_mode": check}), pytest.raises(_Ended) as ended:
            module.main()
        return ended.value.result

    monkeypatch.setattr(AnsibleModule, "exit_json", exit_json)
    monkeypatch.setattr(AnsibleModule, "fail_json", fail_json)
    return run
