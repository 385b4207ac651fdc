"""Discovery, registration and failure of plugins."""

import json
import sys
from importlib.metadata import EntryPoint

import equinox as eqx
import jax
import pytest
from morphkit_fields.mlp import MLP

import gin
from morphkit import hookimpl
from morphkit.interfaces import FusedCost
from morphkit.wiring import registry as registry_module
from morphkit.wiring.discovery import Plugin, installed_plugins
from morphkit.wiring.records import rebuild, record
from morphkit.wiring.registry import KINDS, Registry, registry


def test_every_first_party_family_loads_and_is_listed_once():
    registry.load()
    assert registry.failures == {}
    assert {c.kind for c in registry} == set(KINDS)
    before = dict(registry.components)
    registry.load()
    assert registry.components == before


def test_unknown_names_come_with_the_closest():
    with pytest.raises(LookupError, match=r"'cost\.BrigdeCost'.*Did you mean cost\.BridgeCost"):
        registry.find("cost.BrigdeCost")


def test_short_and_long_names_find_the_same():
    assert (
        registry.find("BridgeCost")
        is registry.find("cost.BridgeCost")
        is registry.find("morphkit_align.cost.BridgeCost")
    )


def test_plugins_can_be_turned_off(monkeypatch):
    monkeypatch.setenv("MORPHKIT_PLUGINS", "")
    assert all(p.enabled == (p.distribution == "morphkit-align") for p in installed_plugins())


def make_cost(name: str) -> type[FusedCost]:
    def prepare(self, data):
        raise NotImplementedError

    return type(FusedCost)(name, (FusedCost,), {"prepare": prepare, "__doc__": "A test cost."})


class FakeModule:
    """A plugin module that registers one cost."""

    def __init__(self, cost):
        self.cost = cost

    @hookimpl
    def morphkit_register(self, registry):
        registry.add(self.cost)


def fake_plugin(monkeypatch, distribution: str, module: object) -> Plugin:
    name = f"fake_{distribution}"
    monkeypatch.setitem(sys.modules, name, module)
    return Plugin(EntryPoint("it", name, "morphkit"), distribution, "1.0", True)


def test_a_name_claimed_twice_is_ambiguous_and_both_are_named(monkeypatch):
    plugins = [
        fake_plugin(monkeypatch, who, FakeModule(make_cost("TwinCost"))) for who in ("acme", "zeta")
    ]
    monkeypatch.setattr(registry_module, "installed_plugins", lambda: plugins)
    fresh = Registry().load()
    with pytest.raises(LookupError, match=r"ambiguous.*acme\.cost\.TwinCost.*zeta\.cost\.TwinCost"):
        fresh.find("cost.TwinCost")
    assert fresh.find("acme.cost.TwinCost").distribution == "acme"


def test_a_broken_plugin_is_recorded_and_harms_nobody_else(monkeypatch):
    broken = Plugin(EntryPoint("it", "no_such_module", "morphkit"), "broken", "2.1", True)
    working = fake_plugin(monkeypatch, "works", FakeModule(make_cost("WorkingCost")))
    monkeypatch.setattr(registry_module, "installed_plugins", lambda: [broken, working])
    fresh = Registry().load()
    assert fresh.find("cost.WorkingCost").distribution == "works"
    assert "no_such_module" in fresh.failures["broken:it"]
    with pytest.raises(LookupError, match=r"broken:it 2\.1 failed to load"):
        fresh.find("cost.SomethingOfTheirs")
    assert broken.state == "broken: no module 'no_such_module'"


def test_a_plugin_that_exits_is_recorded(monkeypatch, tmp_path):
    (tmp_path / "rude_plugin.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    rude = Plugin(EntryPoint("it", "rude_plugin", "morphkit"), "rude", "1.0", True)
    monkeypatch.setattr(registry_module, "installed_plugins", lambda: [rude])
    assert "SystemExit: 3" in Registry().load().failures["rude:it"]


def test_a_plugin_that_fails_half_way_registers_nothing(monkeypatch):
    class Half(FakeModule):
        @hookimpl
        def morphkit_register(self, registry):
            registry.add(self.cost)
            raise RuntimeError("no luck")

    half = fake_plugin(monkeypatch, "half", Half(make_cost("HalfwayCost")))
    monkeypatch.setattr(registry_module, "installed_plugins", lambda: [half])
    fresh = Registry().load()
    assert "no luck" in fresh.failures["half:it"]
    assert not fresh.components
    with pytest.raises(ValueError, match="HalfwayCost"):
        gin.get_configurable("HalfwayCost")


def test_a_plugin_that_registers_nonsense_is_recorded(monkeypatch):
    nonsense = fake_plugin(monkeypatch, "nonsense", FakeModule(eqx.nn.Linear))
    monkeypatch.setattr(registry_module, "installed_plugins", lambda: [nonsense])
    assert "implements no interface" in Registry().load().failures["nonsense:it"]


def test_an_abstract_component_is_refused():
    abstract = type(FusedCost)("HalfCost", (FusedCost,), {})
    with pytest.raises(TypeError, match="does not implement prepare"):
        Registry().add(abstract)


@pytest.mark.parametrize("component", list(registry.load()), ids=lambda c: c.short)
def test_components_are_final_documented_and_rebuildable(component):
    assert component.cls.__doc__
    subclasses = [c.short for c in registry if issubclass(c.cls, component.cls)]
    assert subclasses == [component.short], "a component is final"
    fields = getattr(component.cls, "__dataclass_fields__", {})
    for name in component.arguments:
        assert name in fields, f"argument {name!r} is not a field"
    required = [p for p in component.arguments.values() if p.default is p.empty]
    if not required and component.kind not in ("extractor", "field", "data"):
        built = component.cls()
        assert rebuild(json.loads(json.dumps(record(built)))) == built


def test_a_velocity_field_is_rebuilt_from_its_record():
    field = MLP(3, 2, layers=1, hidden=8, key=jax.random.key(0))
    again = rebuild(json.loads(json.dumps(record(field))), key=jax.random.key(0))
    assert eqx.tree_equal(again, field)
