"""The overlay on the pod template merges as `kubectl patch` does."""

from typing import Any

import pytest

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


def test_a_map_is_deleted_where_null_would_not_survive_an_apply() -> None:
    probed = {"livenessProbe": {"httpGet": {"port": 1}}, "tty": True}

    assert merge(probed, {"livenessProbe": {"$patch": "delete"}}) == {"tty": True}


def test_a_map_is_replaced() -> None:
    replaced = merge(BASE, {"nodeSelector": {"$patch": "replace", "b": "2"}})

    assert replaced["nodeSelector"] == {"b": "2"}


def test_an_item_is_replaced_by_its_name_and_a_list_without_one() -> None:
    item = {"name": "server", "image": "y"}

    one = merge(BASE, {"containers": [{"name": "proxy"}, item | {"$patch": "replace"}]})
    whole = merge(BASE, {"containers": [{"$patch": "replace"}, {"name": "proxy"}]})

    assert one["containers"] == [item, {"name": "proxy"}]
    assert whole["containers"] == [{"name": "proxy"}]


def test_no_directive_reaches_the_api_server_from_where_nothing_is_below() -> None:
    overlay = {
        "affinity": {"$patch": "replace", "nodeAffinity": {"$patch": "merge", "x": 1}},
        "tolerations": [{"$patch": "replace"}, {"key": "spot", "$patch": "replace"}],
        "initContainers": [{"name": "a", "image": "x", "$patch": "replace", "tty": None}],
    }

    assert merge(BASE, overlay) == BASE | {
        "affinity": {"nodeAffinity": {"x": 1}},
        "tolerations": [{"key": "spot"}],
        "initContainers": [{"name": "a", "image": "x"}],
    }


def test_a_directive_that_is_none_is_left_for_the_api_server_to_refuse() -> None:
    assert merge(BASE, {"nodeSelector": {"$patch": "retain"}})["nodeSelector"]["$patch"] == "retain"


HTTP = {"httpGet": {"port": "http"}, "periodSeconds": 5}
TMP = {"name": "tmp", "emptyDir": {"medium": "Memory"}}
HOME = {"name": "HOME", "value": "/tmp"}
FIELD = {"fieldRef": {"fieldPath": "metadata.name"}}


@pytest.mark.parametrize(
    ("field", "below", "above", "both"),
    [
        ("readinessProbe", HTTP, {"exec": {}}, {"exec": {}, "periodSeconds": 5}),
        ("readinessProbe", HTTP, {"periodSeconds": 9}, HTTP | {"periodSeconds": 9}),
        ("preStop", {"sleep": {"seconds": 5}}, {"exec": {}}, {"exec": {}}),
        (
            "preStop",
            {"sleep": {"seconds": 5}},
            {"sleep": {"seconds": 9}},
            {"sleep": {"seconds": 9}},
        ),
        ("volumes", [TMP], [{"name": "tmp", "nfs": {}}], [{"name": "tmp", "nfs": {}}]),
        ("volumes", [TMP], [{"name": "tmp"}], [TMP]),
        (
            "volumes",
            [TMP],
            [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}],
            [{"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}],
        ),
        (
            "env",
            [HOME],
            [{"name": "HOME", "valueFrom": FIELD}],
            [{"name": "HOME", "valueFrom": FIELD}],
        ),
        ("env", [{"name": "HOME", "valueFrom": FIELD}], [HOME], [HOME]),
        ("labels", {"value": "a", "exec": "b"}, {"valueFrom": "c", "sleep": "d"}, None),
    ],
)
def test_one_of_several_ways_displaces_another(
    field: str, below: Any, above: Any, both: Any
) -> None:
    wanted = below | above if both is None else both

    assert merge({field: below}, {field: above}) == {field: wanted}
