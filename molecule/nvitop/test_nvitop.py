"""nvitop runs on the host and sees its eight GPUs."""


def test_shows_every_gpu(host):
    shown = host.run("nvitop --once --no-unicode")
    assert shown.rc == 0
    assert shown.stdout.count("H800") >= 8


def test_is_the_pinned_release(host):
    pinned = host.run("cat /opt/llmfleet/nvitop/*.txt").stdout
    version = host.check_output("nvitop --version").split()[-1]
    assert f"nvitop=={version} " in pinned


def test_leaves_the_system_python_alone(host):
    assert host.run("/usr/bin/python3 -c 'import nvitop'").rc != 0
