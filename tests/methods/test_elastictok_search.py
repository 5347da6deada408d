"""ElasticTok's searches against a known curve: the published walk with its quirks, and the corrected one."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from avtbench.methods.contract import ContractError
from avtbench.methods.elastictok import (
    ElasticTok,
    ElasticTokConfig,
    Search,
    binary_search,
    forced_search,
    linear_candidates,
    linear_search,
    tokenize,
)
from avtbench.methods.forced import Forced
from avtbench.methods.stages import counting


class Curve:
    """Stands in for a network: the loss of element b depends on its count alone, ``losses[b](ntoks)``."""

    def __init__(self, *losses, low: int = 8, tokens: int = 64) -> None:
        self.losses = losses
        self.config = SimpleNamespace(min_toks=low, max_toks=tokens)
        self.x = torch.zeros(len(losses), tokens, 1)

    def new_cache(self, batch: int, blocks: int) -> None:
        return None

    def keep_upto(self, ntoks: Tensor) -> Tensor:
        return ntoks

    def __call__(self, x: Tensor, ntoks: Tensor, cache: None, block: int) -> SimpleNamespace:
        values = [loss(int(n)) for loss, n in zip(self.losses, ntoks[:, 0], strict=True)]
        return SimpleNamespace(block_loss=torch.tensor(values).unsqueeze(1))


def step(first: int):
    """Passes (0 against a threshold of 0.5) from ``first`` on."""
    return lambda n: float(n < first)


def run(*losses, low: int = 8, tokens: int = 64, search=binary_search, **options: object) -> Search:
    curve = Curve(*losses, low=low, tokens=tokens)
    return search(curve, curve.x, 0.5, **options)


def test_published_walk_misses_by_one_in_about_half_of_the_outcomes() -> None:
    """Over all smallest passing counts 1 .. 2048; those up to the minimum, which is never tried, end one above it."""
    smallest = np.arange(1, 2049)
    results = np.array([run(step(first), low=128, tokens=2048).ntoks[0, 0] for first in smallest])
    assert np.mean(results == smallest - 1) == pytest.approx(0.437, abs=1e-3)
    assert np.mean(results == smallest) == pytest.approx(0.50, abs=1e-3)
    assert set(results[smallest <= 128]) == {129}


@pytest.mark.parametrize(("low", "tokens", "trials"), [(128, 2048, {10, 11}), (256, 4096, {11, 12}), (8, 64, {5, 6})])
def test_number_of_trials_of_the_published_walk(low: int, tokens: int, trials: set[int]) -> None:
    firsts = range(low, tokens + 2, max(1, tokens // 256))
    assert {len(run(step(first), low=low, tokens=tokens).trials[0]) for first in firsts} == trials


def test_published_walk_never_tries_the_minimum() -> None:
    found = run(step(0))
    assert found.ntoks.item() == 9
    assert found.kept.item() == 10
    assert 8 not in found.trace_ntoks


def test_corrected_search_finds_the_smallest_passing_count() -> None:
    for first in range(8, 64):
        found = run(step(first), faithful=False)
        assert found.ntoks.item() == first
        assert len(found.trials[0]) <= 6


def test_corrected_search_returns_the_smallest_that_passed_among_those_tried() -> None:
    found = run(lambda n: float(n % 3 == 0), faithful=False)
    passed = found.trace_ntoks[found.trace_loss == 0]
    assert found.ntoks.item() == passed.min()


def test_nothing_passes_then_the_fallback_is_taken() -> None:
    for faithful in (True, False):
        found = run(step(99), faithful=faithful, max_prop_codes=0.7, default_prop_codes=0.5)
        assert found.none_valid.item()
        assert found.ntoks.item() == 32
        assert found.trace_ntoks.max() <= 45


def test_equality_is_neither_passing_nor_failing() -> None:
    found = run(lambda n: 0.5)
    assert not found.none_valid.item()
    assert found.ntoks.item() == 64


def test_finished_elements_of_a_batch_are_evaluated_along() -> None:
    found = run(step(0), step(60))
    assert [len(t) for t in found.trials] == [6]
    assert found.trace_ntoks[0, 0, -1] == 8
    corrected = run(step(0), step(60), faithful=False)
    assert corrected.ntoks[:, 0].tolist() == [8, 60]


def test_linear_search_evaluates_all_hundred_points() -> None:
    found = run(step(20), search=linear_search)
    assert len(found.trials[0]) == 100
    assert found.ntoks.item() == 20
    assert found.evaluations == 101
    assert run(step(99), search=linear_search, default_prop_codes=0.5).ntoks.item() == 32
    assert linear_candidates(8, 64)[[0, -1]].tolist() == [8, 64]
    early = run(step(20), search=linear_search, faithful=False)
    assert early.ntoks.item() == 20
    assert len(early.trials[0]) == 13


def test_a_forced_trace_costs_what_it_declares() -> None:
    found = run(step(20), search=lambda model, x, _: forced_search(model, x, Forced(probes=11, kept=40)))
    assert found.kept.item() == 40
    assert found.evaluations == 12
    with pytest.raises(ContractError, match="kept"):
        run(step(20), search=lambda model, x, _: forced_search(model, x, Forced(probes=11, kept=65)))


@pytest.mark.parametrize("search", ["binary", "linear"])
@pytest.mark.parametrize("faithful", [True, False])
def test_evaluations_are_trials_commits_and_one_full_pass(search: str, faithful: bool) -> None:
    config = ElasticTokConfig.from_dict(
        {
            "bottleneck_type": "vae",
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_encoder_layers": 1,
            "num_decoder_layers": 1,
            "num_attention_heads": 2,
            "patch_size": [2, 8, 8],
            "max_toks": 32,
            "min_toks": 2,
        }
    )
    model = ElasticTok(config).initialise()
    with counting() as evaluations:
        done = tokenize(model, torch.rand(1, 96, config.patch_dim), 0.3, search=search, faithful=faithful)
    trials = sum(len(block) for block in done.search.trials)
    assert done.evaluations == trials + 3 + 1
    assert evaluations == {"elastictok_encoder": done.evaluations, "elastictok_decoder": done.evaluations}
