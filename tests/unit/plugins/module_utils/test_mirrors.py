"""From one variable, every role's addresses."""

from __future__ import annotations

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._mirrors import resolve


def test_nothing_set_means_the_makers_own_addresses():
    resolved = resolve({})
    assert resolved["ollama"] == "https://github.com/ollama/ollama/releases/download"
    assert resolved["nvidia"] == "https://developer.download.nvidia.com/compute/cuda/repos"
    unset = ("apt", "apt_proxy", "python", "uv_python", "ca_bundle", "environment")
    assert not any(resolved[key] for key in unset)
    assert resolved["hubs"] == {"huggingface": "https://huggingface.co", "modelscope": "https://www.modelscope.cn"}


def test_the_keys_of_the_first_release_keep_their_meaning():
    given = {
        "python": "https://pypi.example.com/simple",
        "uv_python": "https://mirror.example.com/pythons",
        "ollama": "https://mirror.example.com/ollama",
        "huggingface": "https://hub.example.com",
        "modelscope": "https://scope.example.com",
    }
    assert {key: resolve(given)[key] for key in given} == given


def test_the_preset_for_china_names_nothing_that_is_slow_there_but_github():
    resolved = resolve({"preset": "cn"})
    addresses = [value for value in resolved.values() if isinstance(value, str) and value.startswith("http")]
    outside = [url for url in addresses if not url.split("/")[2].endswith((".cn", "aliyun.com", "npmmirror.com"))]
    assert sorted(outside) == [
        "https://github.com/astral-sh/uv/releases/download",
        "https://github.com/ggml-org/llama.cpp/archive/refs/tags",
        "https://github.com/ollama/ollama/releases/download",
        "https://hf-mirror.com",
    ]


def test_what_is_set_counts_more_than_the_preset():
    resolved = resolve({"preset": "cn", "python": "https://pypi.example.com/simple/"})
    assert resolved["python"] == "https://pypi.example.com/simple"
    assert resolved["apt"] == "https://mirrors.aliyun.com"


def test_an_empty_value_is_as_good_as_none():
    assert resolve({"preset": "", "python": None, "ollama": "", "no_proxy": []}) == resolve({})


@pytest.mark.parametrize("prefix", ["https://proxy.example.com/", "https://proxy.example.com"])
def test_a_prefix_is_put_before_github(prefix):
    resolved = resolve({"github": prefix, "uv": "https://mirror.example.com/uv"})
    assert resolved["ollama"] == "https://proxy.example.com/https://github.com/ollama/ollama/releases/download"
    assert resolved["uv_python"].startswith("https://proxy.example.com/https://github.com/astral-sh/")
    assert resolved["llama_cpp"].startswith("https://proxy.example.com/https://github.com/ggml-org/")
    assert resolved["uv"] == "https://mirror.example.com/uv"
    assert resolved["huggingface"] == "https://huggingface.co"


def test_a_preset_that_has_a_mirror_needs_no_prefix():
    resolved = resolve({"preset": "cn", "github": "https://proxy.example.com"})
    assert resolved["uv_python"] == "https://registry.npmmirror.com/-/binary/python-build-standalone"
    assert resolved["uv"].startswith("https://proxy.example.com/https://github.com/")


@pytest.mark.parametrize("no_proxy", ["10.0.0.0/8, localhost,", ["10.0.0.0/8", "localhost"]])
def test_a_proxy_reaches_commands_but_not_the_host_itself(no_proxy):
    environment = resolve({"http_proxy": "http://proxy.example.com:3128", "no_proxy": no_proxy})["environment"]
    assert environment["https_proxy"] == environment["HTTP_PROXY"] == "http://proxy.example.com:3128"
    assert environment["no_proxy"] == environment["NO_PROXY"] == "localhost,127.0.0.1,::1,10.0.0.0/8"


def test_apt_has_a_proxy_of_its_own_or_everybodys():
    proxy = {"http_proxy": "http://proxy.example.com:3128"}
    assert resolve(proxy)["apt_proxy"] == "http://proxy.example.com:3128"
    assert (
        resolve({**proxy, "apt_proxy": "http://cache.example.com:3142"})["apt_proxy"] == "http://cache.example.com:3142"
    )


def test_authorities_are_trusted_by_programs_that_bring_their_own():
    resolved = resolve({"ca_bundle": "files/company.pem"})
    assert resolved["ca_bundle"] == "files/company.pem"
    assert resolved["environment"] == dict.fromkeys(
        ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT"), "/etc/ssl/certs/ca-certificates.crt"
    )


@pytest.mark.parametrize(
    ("mirrors", "said"),
    [
        (["cn"], "expected a dictionary, found list"),
        ({"pyhton": "https://x.example"}, "There is no key 'pyhton'. Did you mean 'python'?"),
        ({7: "https://x.example"}, "There is no key '7'. Known: apt, "),
        ({"preset": "china"}, "There is no preset 'china'. Known: cn, global."),
        ({"preset": ["cn"]}, "preset: expected text, found list"),
        ({"python": 8080}, "python: expected text, found int"),
        ({"python": "pypi.example.com/simple"}, "python: expected an address with http:// or https:// in front"),
        ({"ollama": "ftp://x.example"}, "ollama: expected an address"),
        ({"uv": "https://"}, "uv: expected an address"),
        ({"uv": "https://[x"}, "uv: expected an address"),
        ({"nvidia": "https://x.example/a b"}, "nvidia: expected an address"),
        ({"apt": "https://x.example/?key=1"}, "no query, found 'https://x.example/'"),
        ({"no_proxy": {"a": 1}}, "no_proxy: expected a list of host names, found dict"),
        ({"no_proxy": [1]}, "no_proxy: expected a list of host names, found list"),
        ({"ca_bundle": 1}, "ca_bundle: expected text, found int"),
    ],
)
def test_refuses(mirrors, said):
    with pytest.raises(LlmError) as refused:
        resolve(mirrors)
    assert str(refused.value).startswith("llmfleet_mirrors: ")
    assert said in str(refused.value)


def test_everything_that_is_wrong_is_said_at_once():
    with pytest.raises(LlmError) as refused:
        resolve({"aptt": "x", "python": "x", "preset": "eu"})
    assert [word in str(refused.value) for word in ("'aptt'", "python:", "'eu'")] == [True] * 3


@pytest.mark.parametrize("url", ["ftp://user:s3cret@x.example", "user:s3cret@x.example", "https://x.example/?t=s3cret"])
def test_no_password_is_repeated(url):
    with pytest.raises(LlmError) as refused:
        resolve({"python": url})
    assert "x.example" in str(refused.value)
    assert "s3cret" not in str(refused.value)
