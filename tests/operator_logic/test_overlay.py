"""The overlay on the pod template merges as `kubectl patch` does."""

from kvarn_operator.overlay import merge

BASE = {
    "nodeSelector": {"a": "1"},
    "tolerations": [{"key": "gpu"}],
    "containers": [{"name": "server", "image": "x", "env": [{"name": "A", "value": "1"}]}],
}


def test_maps_merge_and_null_removes() -> None:
    merged = merge(BASE, {"nodeSelector": {"a": None, "b": "2"}})

    assert merged["nodeSelector"] == {"b": "2"}


def test_named_items_merge_by_name_and_new_ones_follow() -> None:
    sidecar = {"name": "proxy", "image": "y"}
    change = {"name": "server", "env": [{"name": "B", "value": "2"}]}

    server, proxy = merge(BASE, {"containers": [sidecar, change]})["containers"]

    assert server["image"] == "x"
    assert [variable["name"] for variable in server["env"]] == ["A", "B"]
    assert proxy == sidecar


def test_other_lists_are_replaced() -> None:
    assert merge(BASE, {"tolerations": [{"key": "spot"}]})["tolerations"] == [{"key": "spot"}]


def test_an_item_is_deleted_by_its_name() -> None:
    assert merge(BASE, {"containers": [{"name": "server", "$patch": "delete"}]})["containers"] == []


def test_the_base_is_not_changed() -> None:
    before = repr(BASE)

    merge(BASE, {"containers": [{"name": "server", "image": "y"}], "nodeSelector": {"c": "3"}})

    assert repr(BASE) == before


def test_nulls_of_an_overlay_never_reach_the_api_server() -> None:
    assert merge({}, {"affinity": {"nodeAffinity": None}}) == {"affinity": {}}
