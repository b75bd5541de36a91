"""What a play recap counted is read off what is shown, as Ansible prints it and as Molecule frames it."""

import sys

from testbed.playbooks import run

PLAIN = """PLAY RECAP *****
node1                      : ok=48   changed=3    unreachable=0    failed=0    skipped=8
node2                      : ok=46   changed=0    unreachable=0    failed=0    skipped=5

PLAY RECAP *****
node1                      : ok=48   changed=0    unreachable=0    failed=0    skipped=8
"""
FRAMED = """  \x1b[2m│\x1b[0m PLAY RECAP
  \x1b[2m│\x1b[0m   *********
  \x1b[2m│\x1b[0m \x1b[33minstance                   : ok=44   changed=21   unreachable=0    failed=0\x1b[0m
  \x1b[2m│\x1b[0m   skipped=12   rescued=0    ignored=0
"""


def shown(text, status=0):
    return run([sys.executable, "-c", f"print({text!r}); raise SystemExit({status})"])


def test_plain():
    assert shown(PLAIN).changed == [{"node1": 3, "node2": 0}, {"node1": 0}]
    assert shown(PLAIN).ran == [{"node1": 48, "node2": 46}, {"node1": 48}]


def test_framed():
    assert shown(FRAMED).changed == [{"instance": 21}]
    assert shown(FRAMED).ran == [{"instance": 44}]


def test_status():
    assert shown("", status=4).status == 4
