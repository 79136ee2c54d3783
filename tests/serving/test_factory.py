import pytest

from quiltwork.core import registry
from quiltwork.core.errors import BadInputError, NotFoundError
from quiltwork.core.names import ModelRef
from quiltwork.core.servable import Servable
from quiltwork.serving import language_servable


def test_the_registry_finds_the_factory():
    assert registry.find(registry.SERVABLES, "language") is language_servable


def test_it_starts_empty_and_opens_the_zoo_with_the_first_load(tmp_path):
    zoo = tmp_path / "zoo"
    servable = language_servable({"zoo": str(zoo), "max_num_seqs": 4, "memory_bytes": None, "aliases": {"a": "t::b"}})
    try:
        assert isinstance(servable, Servable)
        assert servable.models() == []
        assert not zoo.exists()
        with pytest.raises(NotFoundError):
            servable.load(ModelRef("nothing"))
        assert servable.models() == []
    finally:
        servable.close()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, "zoo"),
        ({"zoo": 5}, "zoo"),
        ({"zoo": "z", "banana": 1}, "banana"),
        ({"zoo": "z", "max_num_seqs": 0}, "max_num_seqs"),
        ({"zoo": "z", "max_num_seqs": "many"}, "max_num_seqs"),
        ({"zoo": "z", "max_num_seqs": True}, "max_num_seqs"),
        ({"zoo": "z", "max_model_len": -1}, "max_model_len"),
        ({"zoo": "z", "memory_bytes": 1.5}, "memory_bytes"),
        ({"zoo": "z", "dtype": "int3"}, "dtype"),
        ({"zoo": "z", "device": "toaster"}, "device"),
        ({"zoo": "z", "threads": -1}, "threads"),
        ({"zoo": "z", "max_queue": -1}, "max_queue"),
        ({"zoo": "z", "chat_template": 5}, "chat_template"),
        ({"zoo": "z", "chat_template": "{% for"}, "chat template"),
        ({"zoo": "z", "aliases": ["a"]}, "aliases"),
        ({"zoo": "z", "aliases": {"../a": "b"}}, "model"),
        ({"zoo": "z", "seed": "x"}, "seed"),
        ({"zoo": "z", "prefix_cache": 1}, "prefix_cache"),
        ({"zoo": "z", "tenant_kv_share": 0.0}, "tenant_kv_share"),
        ({"zoo": "z", "tenant_kv_share": 1.01}, "tenant_kv_share"),
        ({"zoo": "z", "tenant_kv_share": "half"}, "tenant_kv_share"),
        ({"zoo": "z", "tenant_weights": ["a"]}, "tenant_weights"),
        ({"zoo": "z", "tenant_weights": {"a": "2"}}, "tenant_weights"),
        ({"zoo": "z", "tenant_weights": {"a": 0}}, "tenant_weights"),
        ({"zoo": "z", "tenant_fairness": 1}, "tenant_fairness"),
    ],
)
def test_a_bad_setting_is_refused_by_its_name(settings, named):
    with pytest.raises(BadInputError) as caught:
        language_servable(settings)
    assert caught.value.where == named
