"""preflight accepts a fit host and changes nothing on it."""


def test_leaves_no_trace(host):
    assert not host.file("/opt/llmfleet").exists
    assert not host.file("/etc/llmfleet").exists
