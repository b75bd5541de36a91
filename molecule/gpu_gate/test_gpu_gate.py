"""The gate accepts a healthy host and leaves no trace on it."""


def test_leaves_no_trace(host):
    assert not host.file("/opt/llmfleet").exists
    assert not host.package("python3-pynvml").is_installed
