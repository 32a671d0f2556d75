"""Capacity plans agree with limiting cases, queueing formulas and the simulation of a service."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import simpy
from typer.testing import CliRunner

from cli import main
from planning import demand
from planning.batching import BatchServer
from planning.costs import Cost, Costs, Machine, Overhead, Overheads, Shared, read_costs
from planning.demand import Workload, demand_of
from planning.queues import mean_wait_s, probability_of_waiting, wait_within_s
from planning.simulation import Cluster, DiffusionReplica, Station, arrivals, simulate
from planning.sizing import Objectives, plan

STEPS = 10


def both(seconds: float) -> Cost:
    return Cost(wall_s=seconds, cpu_s=seconds)


def some_costs(accelerator: str = "cuda", **changes: object) -> Costs:
    """Return costs of a fictitious GPU: a step takes 10 ms plus 5 ms per image."""
    little = Overhead(ingress_s=0.001, elsewhere_s=0.002)
    overheads = dict.fromkeys(("cached_call", "upload", "generation", "stage"), little)
    costs = Costs(
        profile="mini",
        accelerator=accelerator,
        machine=Machine(processor="made up", cores=4, gpu="made up", threads=4, measured_on="never"),
        side=128,
        regions=3,
        steps={2 * num: both(0.01 + 0.005 * num) for num in range(1, 9)},
        start=both(0.001),
        decode=both(0.01),
        describe=both(0.002),
        describe_picture=both(0.001),
        segment=both(0.05),
        render=both(0.004),
        encode=both(0.001),
        overheads=Overheads(**overheads, step=Overhead(ingress_s=0, elsewhere_s=0), step_gap_s=0, idle_cores=0.1),
        shared=Shared(
            cache_call_s=0.0004,
            transactions_s={"sqlite": 0.003, "postgresql": 0.006},
            log_row_s=2e-5,
            notice_s=4e-6,
        ),
    )
    return costs.model_copy(update=changes)


def a_workload(rate: float = 10, **changes: object) -> Workload:
    return replace(Workload(rate=rate, steps=STEPS, side=128), **changes)


def test_without_load_the_latency_is_the_service_time():
    replica = demand_of(some_costs(), a_workload()).replica()
    alone_s = STEPS * 0.015 + 0.011
    assert replica.latency_s(1) == pytest.approx(alone_s)
    assert replica.mean_latency_s(0) == pytest.approx(alone_s)
    assert replica.mean_latency_s(1e-6) == pytest.approx(alone_s, rel=1e-4)
    assert replica.latency_within_s(0.95, 1e-6) == pytest.approx(alone_s)
    assert mean_wait_s(2, 1e-9, 1.0) == pytest.approx(0, abs=1e-9)
    assert wait_within_s(0.95, 2, 1e-9, 1.0) == 0


def test_progress_is_reported_every_half_second_at_most():
    quick = demand_of(some_costs(), a_workload())
    assert quick.reported_steps == pytest.approx(1 + quick.cycles[-1].wall_s / demand.PROGRESS_EVERY_S)
    slow = demand_of(some_costs(), a_workload(side=1024))
    assert slow.reported_steps == STEPS


def test_one_server_matches_the_m_m_1_and_m_d_1_formulas():
    assert probability_of_waiting(1, 0.8) == pytest.approx(0.8)
    assert mean_wait_s(1, 0.8, 1.0) == pytest.approx(4.0)  # load / (1 - load)
    assert mean_wait_s(1, 0.8, 1.0, variability=0.5) == pytest.approx(2.0)  # M/D/1


def test_waits_of_several_servers_match_erlang_c():
    assert probability_of_waiting(10, 8) == pytest.approx(0.409, abs=5e-4)  # from a table of Erlang C
    assert mean_wait_s(3, 3.0, 1.0) == float("inf")


@pytest.mark.parametrize(("servers", "rate"), [(1, 0.7), (3, 2.4)])
def test_a_simulated_queue_matches_its_formula_and_littles_law(servers: int, rate: float):
    environment, rng = simpy.Environment(), random.Random(1)
    station = Station(environment, servers, lambda: rng.expovariate(1.0))
    visits: list[tuple[float, float]] = []

    def visit():
        arrived = environment.now
        yield from station.visit()
        visits.append((arrived, environment.now))

    environment.process(arrivals(environment, rate, rng, visit))
    seconds = 60_000
    environment.run(until=seconds)
    mean_s = fmean(left - arrived for arrived, left in visits)
    assert mean_s == pytest.approx(mean_wait_s(servers, rate, 1.0) + 1.0, rel=0.06)
    in_flight = sum(left - arrived for arrived, left in visits) / seconds
    assert in_flight == pytest.approx(len(visits) / seconds * mean_s)
    assert station.busy == pytest.approx(rate / servers, rel=0.03)


@pytest.mark.parametrize("load", [0.4, 0.8])
def test_a_simulated_replica_matches_its_latency_formula(load: float):
    costs = some_costs()
    replica = demand_of(costs, a_workload()).replica()
    rate = load * replica.capacity
    environment, rng = simpy.Environment(), random.Random(2)
    simulated = DiffusionReplica(
        environment, lambda num: costs.step(2 * num).wall_s, largest=8, own_s=0.011, steps=STEPS
    )
    latencies: list[float] = []

    def visit():
        arrived = environment.now
        yield from simulated.visit()
        latencies.append(environment.now - arrived)

    environment.process(arrivals(environment, rate, rng, visit))
    environment.run(until=400)
    latencies.sort()
    assert fmean(latencies) == pytest.approx(replica.mean_latency_s(rate), rel=0.15)
    within_s = replica.latency_within_s(0.95, rate)
    assert 0.6 * within_s < latencies[int(0.95 * len(latencies))] < 1.05 * within_s


def test_the_largest_batch_limits_the_capacity():
    replica = BatchServer(cycle_s=(1.0, 1.5))
    assert replica.capacity == pytest.approx(2 / 1.5)
    assert replica.latency_s(4) == pytest.approx(3.0)
    with pytest.raises(ValueError, match=r"more than the 1\.33"):
        replica.in_hand(1.4)


def test_devices_and_capacity_increase_with_the_rate():
    found = [plan(some_costs(), a_workload(rate), Objectives()) for rate in (1, 10, 50, 200, 1000)]
    devices, capacity = [each.devices for each in found], [each.capacity for each in found]
    assert devices == sorted(set(devices))
    assert capacity == sorted(set(capacity))
    for each in found:
        assert each.capacity > each.workload.rate
        assert all(row.busy < 1 for row in each.deployments)


@pytest.mark.parametrize("reactions", [True, False])
def test_a_plan_meets_its_objective_in_the_simulation(reactions: bool):
    workload = a_workload(60, reactions=reactions)
    objectives = Objectives(p95_s=0.6)
    found = plan(some_costs(), workload, objectives)
    ingress = next(row.replicas for row in found.deployments if row.name == "Ingress")
    cluster = Cluster(devices=found.devices, ingress=ingress, cache_shards=found.cache_shards)
    simulated = simulate(some_costs(), workload, cluster, seconds=60)
    assert (simulated.refused, simulated.not_followed) == (pytest.approx(0, abs=0.01), 0)
    assert simulated.made == pytest.approx(workload.rate, rel=0.05)
    assert simulated.within_s(0.95) < found.p95_s <= 0.6


def test_half_the_planned_devices_miss_the_objective():
    workload = a_workload(60)
    found = plan(some_costs(), workload, Objectives(p95_s=0.6))
    fewer = Cluster(devices=found.devices // 2, ingress=100, cache_shards=2)
    assert simulate(some_costs(), workload, fewer, seconds=60).within_s(0.95) > 0.6


def test_a_tighter_objective_needs_more_devices():
    lax, strict = (plan(some_costs(), a_workload(60), Objectives(p95_s=p95_s)) for p95_s in (2.0, 0.4))
    assert strict.devices > lax.devices
    assert strict.p95_s <= 0.4


def test_repeated_images_and_disabled_reactions_cost_nothing():
    everything = demand_of(some_costs(), a_workload())
    half = demand_of(some_costs(), a_workload(repeats=0.5))
    alone = demand_of(some_costs(), a_workload(reactions=False))
    assert half.segmenter.all.wall_s == pytest.approx(everything.segmenter.all.wall_s / 2)
    assert alone.segmenter.all.wall_s == 0
    assert alone.cache_calls < half.cache_calls < everything.cache_calls


def test_on_cpus_all_deployments_share_the_cores():
    found = plan(some_costs("cpu"), a_workload(), Objectives(cores=4))
    seconds = demand_of(some_costs("cpu"), a_workload()).cpu_s()
    assert found.capacity <= found.devices * 3.9 / seconds + 1e-9  # an idle service takes 0.1 cores
    assert all(row.num_gpus == 0 for row in found.deployments)
    more_cores = plan(some_costs("cpu"), a_workload(200), Objectives(cores=16))
    assert more_cores.devices < plan(some_costs("cpu"), a_workload(200), Objectives(cores=4)).devices


def test_fractions_of_gpus_fit_on_a_card():
    found = plan(some_costs(), a_workload(100), Objectives())
    engines = [row for row in found.deployments if row.num_gpus]
    assert {row.name for row in engines} == {"Diffusion", "Clip", "Segmenter"}
    assert {row.replicas for row in engines} == {found.devices}
    assert 0.9 <= sum(row.num_gpus for row in engines) <= 1


def test_limits_that_replicas_do_not_raise_are_named():
    found = plan(some_costs(), a_workload(300), Objectives())
    (cache,) = [limit for limit in found.limits if "cache" in limit.what]
    assert cache.used > 1
    assert cache.images_per_s == pytest.approx(1 / (12 * 0.0004))
    assert found.cache_shards == 3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"rate": 0}, "more than 0"),
        ({"steps": 0}, "at least one step"),
        ({"repeats": 1.0}, "share from 0 to below 1"),
        ({"cached_calls": -1}, "fewer than 0"),
    ],
)
def test_an_invalid_workload_raises(arguments: dict[str, float], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        a_workload(**arguments)


def test_an_objective_below_the_service_time_raises():
    with pytest.raises(ValueError, match=r"one alone takes 0\.1[67]"):
        plan(some_costs(), a_workload(), Objectives(p95_s=0.1))
    with pytest.raises(ValueError, match="Headroom"):
        Objectives(headroom=1.0)


def test_a_file_without_costs_raises(tmp_path: Path):
    path = tmp_path / "costs.json"
    with pytest.raises(FileNotFoundError, match="benchmarks stage-costs"):
        read_costs(path)
    path.write_text(json.dumps(some_costs().model_dump(mode="json") | {"steps": {}}))
    with pytest.raises(ValueError, match="holds no costs: steps"):
        read_costs(path)


def command(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main.app, ["plan", *arguments], terminal_width=200)
    return result.exit_code, " ".join(result.output.split())


def test_the_command_reads_costs_and_reports_assumptions(tmp_path: Path):
    path = tmp_path / "costs.json"
    path.write_text(some_costs(assumed={"segment": "a guess"}).model_dump_json())
    code, output = command("--rate", "20", "--costs", str(path))
    assert code == 0
    assert "GPU" in output
    assert "Assumed, not measured: segment: a guess" in output
    code, output = command("--rate", "20", "--costs", str(path), "--json", "--size", "256")
    assert code == 0
    found = json.loads(output)
    assert found["workload"]["rate"] == 20
    assert set(found["assumed"]) == {"segment", "256 px"}


def test_the_command_plans_the_miniature_profile_from_measured_costs():
    code, output = command("--rate", "5", "--json")
    assert code == 0
    found = json.loads(output)
    assert found["assumed"] == {}
    assert found["devices"] >= 1


def test_the_command_refuses_a_profile_without_measured_costs():
    code, output = command("--rate", "20", "--profile", "sd14")
    assert code == 1
    assert "No costs of the profile 'sd14' were measured" in output
    assert "--costs" in output


def test_costs_of_another_profile_are_refused(tmp_path: Path):
    path = tmp_path / "costs.json"
    path.write_text(some_costs(profile="sd14").model_dump_json())
    code, output = command("--rate", "20", "--costs", str(path))
    assert code == 1
    assert "not of 'mini'" in output


def test_reactions_are_the_stages_beyond_the_description():
    from graphs.analysis.stages import STAGES  # `planning` doesn't import the service

    assert len(STAGES) - 1 == demand.STAGES_AFTER
