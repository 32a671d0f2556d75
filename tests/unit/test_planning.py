"""What a plan promises holds at its limits, follows known formulas, and is kept when the service is played through."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
from typer.testing import CliRunner

from cli import main
from planning import demand, sizing
from planning.batching import BatchServer
from planning.closed_loop import Calls, loop
from planning.cluster import Cluster, play
from planning.costs import Cost, Costs, Machine, Overhead, Overheads, Shared, read_costs
from planning.demand import Workload, demand_of
from planning.queues import mean_wait_s, probability_of_waiting, wait_within_s
from planning.simulation import Batcher, Clock, Cores, Station, arrivals, lasting
from planning.sizing import Wishes, plan

STEPS = 10


def both(seconds: float) -> Cost:
    return Cost(wall_s=seconds, cpu_s=seconds)


def some_costs(accelerator: str = "cuda", **changes: object) -> Costs:
    """Of a made-up GPU: a step takes 10 ms and 5 ms more for each image."""
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


def test_nobody_waits_where_nobody_comes():
    replica = demand_of(some_costs(), a_workload()).replica()
    alone_s = STEPS * 0.015 + 0.011
    assert replica.latency_s(1) == pytest.approx(alone_s)
    assert replica.mean_latency_s(0) == pytest.approx(alone_s)
    assert replica.mean_latency_s(1e-6) == pytest.approx(alone_s, rel=1e-4)
    assert replica.latency_within_s(0.95, 1e-6) == pytest.approx(alone_s)
    assert mean_wait_s(2, 1e-9, 1.0) == pytest.approx(0, abs=1e-9)
    assert wait_within_s(0.95, 2, 1e-9, 1.0) == 0


def test_progress_is_told_every_half_second_or_at_every_step_if_that_is_longer():
    quick = demand_of(some_costs(), a_workload())
    assert quick.reported_steps == pytest.approx(1 + quick.cycles[-1].wall_s / demand.TOLD_EVERY_S)
    slow = demand_of(some_costs(), a_workload(side=1024))
    assert slow.reported_steps == STEPS


def test_one_server_is_the_textbooks():
    assert probability_of_waiting(1, 0.8) == pytest.approx(0.8)
    assert mean_wait_s(1, 0.8, 1.0) == pytest.approx(4.0)  # load / (1 - load)
    assert mean_wait_s(1, 0.8, 1.0, variability=0.5) == pytest.approx(2.0)  # M/D/1


def test_waits_of_several_servers_are_those_of_erlang():
    assert probability_of_waiting(10, 8) == pytest.approx(0.409, abs=5e-4)  # as tables have it
    assert mean_wait_s(3, 3.0, 1.0) == float("inf")


@pytest.mark.parametrize(("servers", "rate"), [(1, 0.7), (3, 2.4)])
def test_a_played_queue_is_as_its_formula_says_and_keeps_littles_law(servers: int, rate: float):
    clock, chance = Clock(), random.Random(1)
    station = Station(clock, servers, lasting(clock, lambda: chance.expovariate(1.0)))
    visits: list[tuple[float, float]] = []

    def arrive() -> None:
        came = clock.now
        station.visit(lambda: visits.append((came, clock.now)))

    arrivals(clock, rate, chance, arrive)
    seconds = 60_000
    clock.run(seconds)
    mean_s = fmean(left - came for came, left in visits)
    assert mean_s == pytest.approx(mean_wait_s(servers, rate, 1.0) + 1.0, rel=0.06)
    in_hand = sum(left - came for came, left in visits) / seconds
    assert in_hand == pytest.approx(len(visits) / seconds * mean_s)
    assert station.busy == pytest.approx(rate / servers, rel=0.03)


@pytest.mark.parametrize("load", [0.4, 0.8])
def test_a_played_replica_has_the_latencies_of_its_formula(load: float):
    costs = some_costs()
    replica = demand_of(costs, a_workload()).replica()
    rate = load * replica.capacity
    clock, chance = Clock(), random.Random(2)
    batcher = Batcher(
        clock,
        lambda num, then: clock.after(costs.step(2 * num).wall_s, then),
        largest=8,
        own=lasting(clock, lambda: 0.011),
        steps=STEPS,
    )
    latencies: list[float] = []

    def arrive() -> None:
        came = clock.now
        batcher.visit(lambda: latencies.append(clock.now - came))

    arrivals(clock, rate, chance, arrive)
    clock.run(400)
    latencies.sort()
    assert fmean(latencies) == pytest.approx(replica.mean_latency_s(rate), rel=0.15)
    within_s = replica.latency_within_s(0.95, rate)
    assert 0.6 * within_s < latencies[int(0.95 * len(latencies))] < 1.05 * within_s


def test_people_go_first_and_an_engine_stands_still_while_one_of_its_cores_is_taken():
    def ends(*works: tuple[str, float, float | None], number: float) -> dict[str, float]:
        clock, ended = Clock(), {}
        cores = Cores(clock, number, threads=2)
        for name, cpu_s, busy_cores in works:
            cores.work(cpu_s, lambda name=name: ended.update({name: clock.now}), busy_cores=busy_cores)
        clock.run(100)
        return ended

    assert ends(("call", 1.0, None), number=2) == {"call": pytest.approx(1.0)}
    assert ends(("engine", 2.0, 2.0), number=2) == {"engine": pytest.approx(1.0)}
    disturbed = ends(("engine", 2.0, 2.0), ("call", 1.0, None), number=2)
    assert disturbed == {"call": pytest.approx(1.0), "engine": pytest.approx(1.9)}  # a tenth was done meanwhile
    single = ends(("one thread", 1.0, 1.0), ("call", 1.0, None), number=2)
    assert single == {"call": pytest.approx(1.0), "one thread": pytest.approx(1.0)}
    assert ends(("one", 1.0, 1.0), ("other", 1.0, 1.0), number=1)["other"] == pytest.approx(2.0)


def test_saturated_clients_share_the_cores_and_a_lonely_one_waits_for_nobody():
    costs, calls = some_costs("cpu"), Calls(steps=STEPS, cached=1)
    lonely = loop(costs, calls, clients=1, cores=8)
    alone_s = STEPS * 0.015 + 0.011 + 0.001 + 0.003 + 2 * 0.003  # and what each step told spends meanwhile
    assert lonely.rate == pytest.approx(1 / alone_s, rel=0.02)
    crowd = loop(costs, calls, clients=8, cores=0.5)
    assert crowd.rate == pytest.approx(0.5 / crowd.cpu_s, rel=0.02)
    assert crowd.cpu_s < lonely.cpu_s  # they are denoised together


def test_a_replica_does_no_more_than_its_largest_batch():
    replica = BatchServer(cycle_s=(1.0, 1.5))
    assert replica.capacity == pytest.approx(2 / 1.5)
    assert replica.latency_s(4) == pytest.approx(3.0)
    with pytest.raises(ValueError, match=r"more than the 1\.33"):
        replica.in_hand(1.4)


def test_more_devices_can_do_more_and_a_higher_rate_takes_no_fewer():
    found = [plan(some_costs(), a_workload(rate), Wishes()) for rate in (1, 10, 50, 200, 1000)]
    devices, capacity = [each.devices for each in found], [each.capacity for each in found]
    assert devices == sorted(set(devices))
    assert capacity == sorted(set(capacity))
    for each in found:
        assert each.capacity > each.workload.rate
        assert all(row.busy < 1 for row in each.deployments)


@pytest.mark.parametrize("reactions", [True, False])
def test_a_plan_meets_its_objective_when_it_is_played_through(reactions: bool):
    workload = a_workload(60, reactions=reactions)
    wishes = Wishes(p95_s=0.6)
    found = plan(some_costs(), workload, wishes)
    ingress = next(row.replicas for row in found.deployments if row.name == "Ingress")
    cluster = Cluster(devices=found.devices, ingress=ingress, cache_shards=found.cache_shards)
    played = play(some_costs(), workload, cluster, seconds=60)
    assert (played.refused, played.not_followed) == (pytest.approx(0, abs=0.01), 0)
    assert played.made == pytest.approx(workload.rate, rel=0.05)
    assert played.within_s(0.95) < found.p95_s <= 0.6


def test_half_the_devices_would_not_have_done():
    workload = a_workload(60)
    found = plan(some_costs(), workload, Wishes(p95_s=0.6))
    fewer = Cluster(devices=found.devices // 2, ingress=100, cache_shards=2)
    assert play(some_costs(), workload, fewer, seconds=60).within_s(0.95) > 0.6


def test_a_tighter_objective_takes_more():
    lax, strict = (plan(some_costs(), a_workload(60), Wishes(p95_s=p95_s)) for p95_s in (2.0, 0.4))
    assert strict.devices > lax.devices
    assert strict.p95_s <= 0.4


def test_what_is_known_already_and_what_nobody_wants_costs_nothing():
    everything = demand_of(some_costs(), a_workload())
    half = demand_of(some_costs(), a_workload(repeats=0.5))
    alone = demand_of(some_costs(), a_workload(reactions=False))
    assert half.segmenter.all.wall_s == pytest.approx(everything.segmenter.all.wall_s / 2)
    assert alone.segmenter.all.wall_s == 0
    assert alone.cache_calls < half.cache_calls < everything.cache_calls


def test_on_cpus_everything_shares_the_machine():
    found = plan(some_costs("cpu"), a_workload(), Wishes(cores=4))
    seconds = demand_of(some_costs("cpu"), a_workload()).cpu_s()
    assert found.capacity <= found.devices * 3.9 / seconds + 1e-9  # 0.1 cores go to a service with nothing to do
    assert all(row.num_gpus == 0 for row in found.deployments)
    more_cores = plan(some_costs("cpu"), a_workload(200), Wishes(cores=16))
    assert more_cores.devices < plan(some_costs("cpu"), a_workload(200), Wishes(cores=4)).devices


def test_fractions_of_gpus_fit_on_a_card():
    found = plan(some_costs(), a_workload(100), Wishes())
    engines = [row for row in found.deployments if row.num_gpus]
    assert {row.name for row in engines} == {"Diffusion", "Clip", "Segmenter"}
    assert {row.replicas for row in engines} == {found.devices}
    assert 0.9 <= sum(row.num_gpus for row in engines) <= 1


def test_what_more_replicas_do_not_help_is_named():
    found = plan(some_costs(), a_workload(300), Wishes())
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
def test_a_load_that_cannot_be_is_refused(arguments: dict[str, float], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        a_workload(**arguments)


def test_an_objective_below_a_lonely_image_is_refused():
    with pytest.raises(ValueError, match=r"one alone takes 0\.1[67]"):
        plan(some_costs(), a_workload(), Wishes(p95_s=0.1))
    with pytest.raises(ValueError, match="Headroom"):
        Wishes(headroom=1.0)


def test_a_file_that_holds_no_costs_is_refused(tmp_path: Path):
    path = tmp_path / "costs.json"
    with pytest.raises(FileNotFoundError, match=r"benchmarks\.stage_costs"):
        read_costs(path)
    path.write_text(json.dumps(some_costs().model_dump(mode="json") | {"steps": {}}))
    with pytest.raises(ValueError, match="holds no costs: steps"):
        read_costs(path)


def command(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main.app, ["plan", *arguments], terminal_width=200)
    return result.exit_code, " ".join(result.stdout.split())


def test_the_command_plans_with_given_costs_and_says_what_it_assumed(tmp_path: Path):
    path = tmp_path / "costs.json"
    path.write_text(some_costs(assumed={"segment": "a guess"}).model_dump_json())
    code, said = command("--rate", "20", "--costs", str(path))
    assert code == 0
    assert "GPU" in said
    assert "Assumed, not measured: segment: a guess" in said
    code, said = command("--rate", "20", "--costs", str(path), "--json", "--size", "256")
    assert code == 0
    found = json.loads(said)
    assert found["workload"]["rate"] == 20
    assert set(found["assumed"]) == {"segment", "256 px"}


def test_the_command_plans_the_miniature_from_what_was_measured():
    code, said = command("--rate", "5", "--json")
    assert code == 0
    found = json.loads(said)
    assert found["assumed"] == {}
    assert found["devices"] >= 1


def test_the_command_never_plans_with_figures_that_nobody_measured_unless_told_to():
    code, said = command("--rate", "20", "--profile", "sd14")
    assert code == 1
    assert "No costs of the profile 'sd14' were measured" in said
    assert "--costs" in said


def test_costs_of_another_profile_are_refused(tmp_path: Path):
    path = tmp_path / "costs.json"
    path.write_text(some_costs(profile="sd14").model_dump_json())
    code, said = command("--rate", "20", "--costs", str(path))
    assert code == 1
    assert "not of 'mini'" in said


def test_a_plan_knows_the_service_s_own_limits():
    """`planning` imports nothing of the service, so what it has to know stands there again."""
    from deployments.diffusion import Diffusion
    from deployments.renderer import Renderer
    from graphs.analysis.stages import STAGES
    from pipeline.settings import Admission, DiffusionSettings

    assert Admission().max_generations == sizing.MAX_GENERATIONS
    assert Diffusion.max_ongoing_requests == demand.MAX_ONGOING
    assert DiffusionSettings.model_fields["progress_every_s"].default == demand.TOLD_EVERY_S
    assert Renderer.max_ongoing_requests == sizing.RENDERER_THREADS
    assert len(STAGES) - 1 == demand.STAGES_AFTER
