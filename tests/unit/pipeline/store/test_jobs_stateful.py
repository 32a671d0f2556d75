"""For any sequence of operations on jobs: none is lost, none has two results, none hangs, and readers of the log see
every change once."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from pipeline.errors import IdempotencyMismatch, JobNotRetriable, LeaseLost
from pipeline.jobs import AGAIN, MAX_ATTEMPTS, IdempotencyKey, JobOrder, JobState, Lease
from pipeline.store import EventLog, PageQuery, new_id, open_database
from pipeline.store.jobs import JobStore

LEASE_S = 30.0
HOLDERS = st.sampled_from(["w1", "w2", "w3"])
SERVER_PROBLEM = {"code": "stage_failed", "status": 500, "facts": {}}
CLIENT_PROBLEM = {"code": "image_refused", "status": 422, "facts": {}}


class Jobs(RuleBasedStateMachine):
    """A store with its workers, clients and a reader of the log."""

    submitted = Bundle("submitted")
    leases = Bundle("leases")

    @initialize()
    def open(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.engine = open_database(f"sqlite:///{Path(self.folder.name) / 'truth.sqlite'}")
        self.now = 1000.0
        self.store = JobStore(EventLog(self.engine), lambda _: self.now)
        self.keys: dict[str, tuple[str, str]] = {}  # fingerprint and job id
        self.held: dict[str, tuple[Lease, float]] = {}  # by job id: the valid lease and when it expires
        self.final: dict[str, JobState] = {}  # settled and not retried since
        self.known: list[int] = []  # sequence numbers a reader has seen
        self.types: Counter[tuple[str | None, str]] = Counter()

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        for _ in range(MAX_ATTEMPTS * (len(self.jobs()) + 1)):  # one reliable worker finishes the rest
            self.now += LEASE_S + 1
            for _, lease in self.store.lease("last", lease_s=LEASE_S, limit=3):
                self.store.succeed(lease, {})
        assert all(job.state.is_final for job in self.jobs()), "a job hangs"
        self.read()
        assert all(count == 1 for (_, type_), count in self.types.items() if type_ == "job.succeeded")
        self.engine.dispose()
        self.folder.cleanup()

    @rule(target=submitted, begun=st.booleans(), holder=HOLDERS)
    def submit(self, begun: bool, holder: str):
        accepted = self.store.submit(an_order(), holder=holder if begun else None, lease_s=LEASE_S)
        assert accepted.is_new
        self.note(accepted.lease)
        return accepted.job.job_id

    @rule(target=submitted, key=st.sampled_from("ab"), body=st.sampled_from("xy"))
    def submit_with_key(self, key: str, body: str):
        if key in self.keys and self.keys[key][0] != body:
            with pytest.raises(IdempotencyMismatch):
                self.store.submit(an_order(), IdempotencyKey(key=key, fingerprint=body))
            return multiple()
        before = self.keys.get(key)
        accepted = self.store.submit(an_order(), IdempotencyKey(key=key, fingerprint=body))
        assert before is None or before[1] == accepted.job.job_id
        self.keys[key] = body, accepted.job.job_id
        if before and accepted.is_new:
            assert self.final.pop(accepted.job.job_id) is JobState.FAILED
        return accepted.job.job_id

    @rule(target=leases, holder=HOLDERS, limit=st.integers(1, 3))
    def take(self, holder: str, limit: int):
        taken = self.store.lease(holder, lease_s=LEASE_S, limit=limit)
        self.find_settled()
        for job, lease in taken:
            assert job.job_id not in self.final
            assert self.held.get(job.job_id, (None, 0.0))[1] < self.now, "taken from a living holder"
            self.note(lease)
        working = [job for job in self.jobs() if job.state is JobState.RUNNING]
        assert len(working) <= 1 or all(job.attempts < MAX_ATTEMPTS for job in working), "a suspect has company"
        return multiple(*(lease for _, lease in taken))

    @rule(seconds=st.sampled_from([1.0, LEASE_S / 2, LEASE_S + 1]))
    def advance_time(self, seconds: float):
        """Leases that aren't renewed expire."""
        self.now += seconds

    @rule(lease=leases)
    def renew(self, lease: Lease):
        kept, stopped = self.store.renew([lease], lease_s=LEASE_S)
        if kept:
            assert self.is_current(lease)
            self.note(lease)
        else:
            assert stopped == [lease]

    @rule(lease=consumes(leases), how=st.sampled_from(["succeed", "fail", "refuse", "lose", "stop"]))
    def settle(self, lease: Lease, how: str):
        settle = {
            "succeed": lambda: self.store.succeed(lease, {"by": lease.holder}),
            "fail": lambda: self.store.fail(lease, SERVER_PROBLEM),
            "refuse": lambda: self.store.fail(lease, CLIENT_PROBLEM),
            "lose": lambda: self.store.lose(lease, SERVER_PROBLEM),
            "stop": lambda: self.store.stop(lease),
        }[how]
        if self.is_current(lease):
            settle()
            del self.held[lease.job_id]
            job = self.store.get(lease.job_id, "public")
            assert job.state is not JobState.RUNNING
            assert how != "succeed" or job.result == {"by": lease.holder}
        else:
            with pytest.raises(LeaseLost):
                settle()
        self.find_settled()

    @rule(job_id=submitted)
    def cancel(self, job_id: str):
        before = self.store.get(job_id, "public")
        after = self.store.cancel(job_id, "public")
        assert after.state is (JobState.CANCELLED if before.state is JobState.QUEUED else before.state)
        self.find_settled()

    @rule(job_id=submitted)
    def retry(self, job_id: str):
        state = self.store.get(job_id, "public").state
        if state in AGAIN:
            again = self.store.retry(job_id, "public")
            assert (again.state, again.attempts, again.problem) == (JobState.QUEUED, 0, None)
            self.final.pop(job_id)
        else:
            with pytest.raises(JobNotRetriable):
                self.store.retry(job_id, "public")

    @rule(limit=st.integers(1, 5))
    def read(self, limit: int = 1000):
        """A reader resumes after the last sequence number it has seen."""
        page = self.store.log.read(after=self.known[-1] if self.known else 0, limit=limit)
        for record in page:
            self.types[record.job_id, record.type] += 1
        self.known += [record.sequence for record in page if record.sequence]
        assert self.known == list(range(1, len(self.known) + 1))

    @invariant()
    def settled_jobs_keep_their_state(self):
        if not hasattr(self, "store"):
            return
        for job in self.jobs():
            assert job.attempts <= MAX_ATTEMPTS
            if job.job_id in self.final:
                assert job.state is self.final[job.job_id]

    def jobs(self):
        return self.store.list("public", PageQuery(limit=1000))

    def note(self, lease: Lease | None) -> None:
        if lease is not None:
            self.held[lease.job_id] = lease, self.now + LEASE_S

    def is_current(self, lease: Lease) -> bool:
        return self.held.get(lease.job_id, (None, 0.0))[0] == lease

    def find_settled(self) -> None:
        """Record the jobs that the store has settled or requeued by itself."""
        for job in self.jobs():
            if job.state.is_final:
                self.final.setdefault(job.job_id, job.state)
            if job.state is not JobState.RUNNING:
                self.held.pop(job.job_id, None)


def an_order() -> JobOrder:
    return JobOrder(job_id=new_id(), kind="generate", owner="public", request_id="r", request={})


TestJobs = Jobs.TestCase
TestJobs.settings = settings(
    max_examples=60,
    stateful_step_count=50,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
