"""Sites validate themselves and survive JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from hcompile.site import Site

SITE = Site("model.layers.0.self_attn", 0, 8, 2, 64, 0.125, True, 128)


def test_a_site_survives_json() -> None:
    for site in (SITE, replace(SITE, window=None, causal=False)):
        assert Site.from_json(json.loads(json.dumps(site.to_json()))) == site


def test_group_is_query_heads_per_kv_head() -> None:
    assert SITE.group == 4


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", 3),
        ("layer", -1),
        ("layer", True),
        ("q_heads", 0),
        ("q_heads", 8.0),
        ("q_heads", 7),
        ("kv_heads", 0),
        ("kv_heads", 3),
        ("kv_heads", "2"),
        ("head_dim", 0),
        ("scale", float("nan")),
        ("scale", "0.125"),
        ("causal", 1),
        ("window", 0),
        ("window", 1.5),
    ],
)
def test_a_wrong_field_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(
        ValueError, match=field.replace("q_heads", "query heads|q_heads").replace("kv_", "(kv_|KV )")
    ):
        replace(SITE, **{field: value})


@pytest.mark.parametrize("value", [None, [], {}, {**SITE.to_json(), "color": 1}])
def test_json_that_is_no_site_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="site"):
        Site.from_json(value)
