"""The acceptance role has made the engine load the very model and answer."""


def test_engine_has_loaded_the_model(host):
    loaded = host.check_output("/opt/llmfleet/ollama/0.5.11/bin/ollama ps")
    assert "deepseek-r1" in loaded
