"""Keys at the interfaces of a node: each only narrows what may be asked, and is told so in each protocol."""

from __future__ import annotations

import pytest

from atoll.domain.errors import PolicyDenied
from support.fix_routing import Site

OWN = {"model": "own"}
TENSOR = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]}


async def test_each_protocol_says_in_its_own_words_when_to_come_again(site: Site) -> None:
    shown = site.key("till", rate="1/h")
    status, headers, _ = await site.post(headers=shown, **OWN)
    assert (status, headers["x-ratelimit-remaining-requests"]) == (200, "0")
    status, headers, told = await site.post(headers=shown, **OWN)
    assert (status, headers["Retry-After"]) == (429, "3600")
    assert headers["x-ratelimit-limit-requests"] == "1"
    assert told["error"]["type"] == "rate_limit_error"
    assert told["error"]["code"] == "rate-exceeded"
    status, _, told = await site.post("/v1/embeddings", shown, input="a", **OWN)
    assert (status, told["error"]["code"]) == (429, "rate-exceeded")
    status, _, told = await site.post("/v1/messages", shown, max_tokens=1, **OWN)
    assert (status, told["type"], told["error"]["type"]) == (429, "error", "rate_limit_error")
    status, headers, told = await site.post("/v2/models/own/infer", shown, **TENSOR)
    assert (status, told["code"], headers["Retry-After"]) == (429, "rate-exceeded", "3600")
    assert (await site.post(**OWN))[0] == 200, "who shows none has none"
    assert (await site.post(headers=site.key("desk"), **OWN))[0] == 200
    refused = [one for family in site.limits.numbers() for one in family.samples]
    assert [(one.labels["limit"], one.value) for one in refused] == [("requests", 4)]


@pytest.mark.parametrize("stream", [False, True])
async def test_tokens_that_did_not_come_are_given_back(site: Site, stream: bool) -> None:
    shown = site.key("till", token_rate="1000/h")
    status, headers, _ = await site.ask(headers=shown, max_tokens=900, stream=stream, **OWN)
    assert status == 200
    taken = 1000 - int(headers["x-ratelimit-remaining-tokens"])
    assert stream is (taken > 900), "a head comes before what it cost is known"
    status, headers, _ = await site.ask(headers=shown, max_tokens=900, **OWN)
    assert status == 200, "what was not used of the first is there for the second"
    assert 1000 - int(headers["x-ratelimit-remaining-tokens"]) < 50


async def test_a_key_goes_no_further_than_its_scope(site: Site) -> None:
    shown = site.key("ward", scope="local")
    for _ in range(3):
        status, headers, _ = await site.post(headers=shown)
        assert (status, headers["x-atoll-decision"].partition(";")[0]) == (200, "here")
    status, _, told = await site.post(headers={**shown, "x-atoll-place": "cloud"})
    assert (status, told["error"]["code"]) == (403, "no-place")
    status, _, told = await site.post(headers=shown, model="one")
    assert (status, told["error"]["code"]) == (403, "no-place"), "nor by its name"
    status, _, told = await site.post("/v1/embeddings", shown, model="two", input="a")
    assert (status, told["error"]["code"]) == (403, "no-place")
    assert not site.one.asks
    assert not site.two.asks
    assert site.router.scopes_of_key("ward") == {"local"}
    shown = site.key("clerk", scope="region:eu")
    status, headers, _ = await site.post(headers=shown)
    assert headers["x-atoll-decision"].startswith("cloud:"), "these are in that region"


async def test_a_budget_of_money_pays_for_clouds_and_then_the_next_place_answers(site: Site) -> None:
    budget = site.budget("purse", "cost", 60)
    shown = site.key("till", budget="purse")
    places = [
        (await site.post(headers=shown, max_tokens=10))[1]["x-atoll-decision"].partition(";")[0]
        for _ in range(5)
    ]
    assert places[0].startswith("cloud:")
    assert places[-1] == "here", places
    assert 0 < budget.spent <= 60
    assert (await site.post(max_tokens=10))[1]["x-atoll-decision"].startswith("cloud:"), (
        "others have no budget"
    )
    with pytest.raises(PolicyDenied, match="has a budget"):
        site.router.check_direct("one", "till")
    _, headers, _ = await site.post(headers=site.key("lost", budget="nowhere"), max_tokens=10)
    assert headers["x-atoll-decision"].startswith("here"), "a budget that is not there pays for nothing"


async def test_route_and_key_both_have_to_pay(site: Site) -> None:
    of_route, of_key = site.budget("house", "cost", 1000), site.budget("purse", "cost", 10)
    site.route(options={"budget": "house"})
    shown = site.key("till", budget="purse")
    _, headers, _ = await site.post(headers=shown, max_tokens=10)
    assert headers["x-atoll-decision"].startswith("here")
    assert (of_route.free, of_key.free) == (1000, 10), "what one had set aside is given back"
    _, headers, _ = await site.post(max_tokens=10)
    assert headers["x-atoll-decision"].startswith("cloud")
    assert of_route.free < 1000


async def test_a_budget_of_tokens_counts_every_answer(site: Site) -> None:
    budget = site.budget("quota", "tokens", 60)
    shown = site.key("till", budget="quota")
    statuses = []
    for _ in range(12):
        status, headers, told = await site.post(headers=shown, max_tokens=20, **OWN)
        statuses.append(status)
    assert statuses[0] == 200
    assert (statuses[-1], told["error"]["code"]) == (429, "budget-spent")
    assert int(headers["Retry-After"]) > 1000, "a new period begins then"
    assert 0 < budget.spent <= 60
