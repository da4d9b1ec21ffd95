"""Series against epochs and draws: what arviz says of the same draws, and the rows of a training in their order."""

import arviz_stats.base
import pytest
import torch

from pipelines import histories
from pipelines.journal import Journal


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "journal.jsonl")


def series(journal) -> dict[str, dict]:
    return {e["name"]: dict(zip(e["steps"], map(float, e["values"]), strict=True)) for _, e in journal.read()}


def test_r_hat_and_sample_size_against_the_draws_are_those_of_arviz(journal):
    generator = torch.Generator().manual_seed(3)
    theta = torch.randn(4, 200, 2, generator=generator, dtype=torch.float64)
    theta[..., 1] += torch.linspace(2, 0, 200) * torch.tensor([0.0, 1.0, 2.0, 3.0])[:, None]  # chains that meet late
    histories.mixing(journal, "infer", ("a", "b"), theta)
    told = series(journal)
    assert told.keys() == {"a/rhat", "a/ess", "b/rhat", "b/ess", "rhat", "ess"}
    assert list(told["rhat"]) == list(range(10, 201, 10))
    for step in (10, 100, 200):
        rhat = arviz_stats.base.array_stats.rhat(theta[:, :step].numpy(), chain_axis=0, draw_axis=1)
        ess = arviz_stats.base.array_stats.ess(theta[:, :step].numpy(), chain_axis=0, draw_axis=1)
        assert [told[f"{n}/rhat"][step] for n in "ab"] == pytest.approx(list(rhat), rel=1e-12)
        assert [told[f"{n}/ess"][step] for n in "ab"] == pytest.approx(list(ess), rel=1e-12)
        assert (told["rhat"][step], told["ess"][step]) == pytest.approx((max(rhat), min(ess)), rel=1e-12)
    assert told["b/rhat"][200] < told["b/rhat"][100], "the chains that meet late look better with more draws"


@pytest.mark.parametrize(("draws", "steps"), [(8, [8]), (9, [8, 9]), (20, list(range(8, 21)))])
def test_few_draws_are_looked_at_as_often_as_they_can_be(journal, draws, steps):
    theta = torch.randn(1, draws, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    histories.mixing(journal, "infer", ("a",), theta)
    assert list(series(journal)["ess"]) == steps


def test_a_chain_of_fewer_draws_than_8_is_looked_at_once(journal):
    theta = torch.randn(4, 5, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    histories.mixing(journal, "infer", ("a",), theta)
    assert list(series(journal)["rhat"]) == [5]


def test_every_loss_is_a_series_over_epochs(journal):
    rows = [{"loss": 3.0, "held_out_loss": 4.0}, {"loss": 2.0, "held_out_loss": float("nan")}, {"loss": 1.0}]
    histories.training(journal, "train/mlp", rows)
    told = series(journal)
    assert told["loss"] == {1: 3.0, 2: 2.0, 3: 1.0}
    assert told["held_out_loss"] == pytest.approx({1: 4.0, 2: float("nan")}, nan_ok=True)


def test_members_of_an_ensemble_have_curves_of_their_own(journal):
    rows = [{"member": m, "epoch": e, "loss": 10.0 * m + e} for m in (0, 1) for e in (1, 2)]
    histories.training(journal, "infer", rows, "npe")
    assert series(journal) == {"npe/loss/member 0": {1: 1.0, 2: 2.0}, "npe/loss/member 1": {1: 11.0, 2: 12.0}}
    histories.training(journal, "train/flow", rows[:2])
    assert series(journal)["loss"] == {1: 1.0, 2: 2.0}
