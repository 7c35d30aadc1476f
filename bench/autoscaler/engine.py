"""One vLLM server: continuous batching with chunked prefill, and preemption by recompute.

Follows `vllm/v1/core/sched/scheduler.py`: a step gives one token to each sequence that decodes,
then continues prompts, then admits waiting ones, within `max_num_batched_tokens`. Where a step is
planned while the one before it begins (`async_scheduling`), those that come in between miss it.
While only decoding goes on, many steps are taken at once: their durations are an arithmetic series.
"""

import heapq
import math
from collections import Counter, deque
from dataclasses import dataclass, field
from itertools import count

from bench.autoscaler.prefixes import PrefixCache
from bench.autoscaler.requests import Job
from bench.autoscaler.roofline import Server

BUCKETS = 24
"""Buckets of inter-token latency in each factor of e."""


@dataclass(slots=True)
class Totals:
    """Counters since the server started, counted where vLLM counts them.

    Prompts when they have their first token; queue and prefill times when a request ends.
    """

    finished: int = 0
    preemptions: int = 0
    prompt_tokens: int = 0
    computed_tokens: int = 0
    generated_tokens: int = 0
    first_tokens: int = 0
    queue_seconds: float = 0.0
    prefill_seconds: float = 0.0
    prefilled_tokens: int = 0


@dataclass(slots=True)
class Engine:
    """A server's state between two steps.

    Attributes:
        now: when the last step ended, in seconds since the trace began, and
        began: when it began.
        arriving: handed over, in order of arrival.
        waiting: for capacity, and
        queued_tokens: of their prompts.
        prefilling: whose prompt is being computed, in order of admission.
        decoding: in order of admission; value: its number in `_ends`.
        step: how many steps were taken.
        context: tokens that a step of decoding reads.
        held: tokens of cache in use, those of shared prefixes aside.
        latencies: inter-token latencies, by bucket of their logarithm.
    """

    server: Server
    now: float = 0.0
    began: float = 0.0
    arriving: deque[Job] = field(default_factory=deque)
    waiting: deque[Job] = field(default_factory=deque)
    queued_tokens: int = 0
    prefilling: list[Job] = field(default_factory=list)
    decoding: dict[Job, int] = field(default_factory=dict)
    step: int = 0
    context: int = 0
    held: int = 0
    totals: Totals = field(default_factory=Totals)
    latencies: Counter[int] = field(default_factory=Counter)
    prefixes: PrefixCache = field(default_factory=PrefixCache)
    _ends: list[tuple[int, int, Job]] = field(default_factory=list)
    _numbers: "count[int]" = field(default_factory=count)

    @property
    def running(self) -> int:
        """Sequences in the batch."""
        return len(self.prefilling) + len(self.decoding)

    @property
    def used_tokens(self) -> int:
        """Tokens of cache in use; half of each sequence's last block is lost, and its tail."""
        server = self.server
        lost = self.running * (server.block_tokens // 2 + server.tail_tokens)
        used = self.held + self.prefixes.used_tokens + lost
        return min(used, server.cache_tokens)

    @property
    def outstanding(self) -> int:
        """Requests that it has."""
        return self.running + len(self.waiting) + len(self.arriving)

    @property
    def backlog_seconds(self) -> float:
        """What it takes to compute the prompts that it has."""
        left = sum(job.left for job in self.prefilling) + self.queued_tokens
        return left * self.server.step.token

    def advance(self, until: float) -> None:
        """Work until a step ends at `until` or later, or there is nothing to do before."""
        while self.now < until:
            if self.arriving:
                self._take_in()
            if self.waiting:
                self._admit()
            if self.prefilling:
                self._mixed_step()
            elif self.decoding:
                self._decode_steps(until)
            elif self.arriving:
                self.now = min(self.arriving[0].request.arrival, until)
            else:
                self.now = until

    def _take_in(self) -> None:
        """Queue those that had come when the step that begins now was planned."""
        ahead = self.server.plans_ahead and self.running
        planned = self.began if ahead else self.now
        while self.arriving and self.arriving[0].request.arrival <= planned:
            job = self.arriving.popleft()
            self.waiting.append(job)
            self.queued_tokens += job.request.prompt_tokens

    def _free_tokens(self) -> int:
        return self.server.cache_tokens - self.used_tokens

    def _admit(self) -> None:
        """Move waiting requests into the batch while it has room, as one step would."""
        budget = self.server.max_batched_tokens - len(self.decoding)
        budget -= sum(job.left for job in self.prefilling)
        while self.waiting and budget > 0 and self.running < self.server.max_sequences:
            job = self.waiting[0]
            if not self._fits(job):
                return
            self.waiting.popleft()
            self.queued_tokens -= job.request.prompt_tokens
            self._start(job)
            budget -= job.left

    def _fits(self, job: Job) -> bool:
        request = job.request
        prompt = self.prefixes.new_tokens(request) if request.prefix else request.prompt_tokens
        spare = self.server.block_tokens + self.server.tail_tokens
        return self._free_tokens() >= prompt + job.generated + spare

    def _start(self, job: Job) -> None:
        request = job.request
        if not job.computed:
            job.admitted = self.now
        job.context = request.prompt_tokens + job.generated
        if request.prefix:
            self.prefixes.shrink(self._free_tokens())
            job.cached = self.prefixes.hit_tokens(request)
        job.left = job.context - job.cached
        job.computed += job.left
        job.held = job.generated if request.prefix else job.context
        self.held += job.held
        if request.prefix:
            self.prefixes.take(request)
        self.prefilling.append(job)

    def _mixed_step(self) -> None:
        """A step that computes prompts beside what decodes."""
        self._make_room()
        server, cost, decoding = self.server, self.server.step, len(self.decoding)
        budget, tokens, pairs, read = server.max_batched_tokens - decoding, decoding, 0.0, 0
        prompts = 0
        for job in self.prefilling:
            taken = min(job.left, budget)
            if taken <= 0:
                break
            done = job.context - job.left
            pairs += taken * (done + taken / 2)
            read += done
            job.left -= taken
            tokens += taken
            prompts += 1
            budget -= taken
        linear = math.hypot(tokens * cost.token, cost.weights)
        read_seconds = (self.context + read) * cost.context + self.context * cost.beside
        calls = decoding * cost.sequence + prompts * cost.prompt
        seconds = cost.fixed + linear + pairs * cost.pair + read_seconds + calls
        self._pass(seconds, steps=1, last=seconds)
        self._finish_prefills()
        self._finish_decodes()

    def _decode_steps(self, until: float) -> None:
        """As many steps of pure decoding as nothing disturbs."""
        free = self._make_room()
        if not self.decoding:
            return
        server, cost, batch = self.server, self.server.step, len(self.decoding)
        linear = math.hypot(batch * cost.decode, cost.weights)
        first = cost.fixed + linear + self.context * cost.context + batch * cost.sequence
        growth = batch * cost.context
        undisturbed = _steps_in(until - self.now, first, growth)
        if self.arriving and (arrival := self.arriving[0].request.arrival) < until:
            left = max(arrival - self.now, 0.0)
            undisturbed = min(undisturbed, _steps_in(left, first, growth) + server.plans_ahead)
        steps = max(min(self._ends[0][0] - self.step, free // batch, undisturbed), 1)
        seconds = steps * first + growth * steps * (steps - 1) / 2
        self._pass(seconds, steps=steps, last=first + growth * (steps - 1))
        self._finish_decodes()

    def _pass(self, seconds: float, *, steps: int, last: float) -> None:
        """Let `steps` steps go by: every decoding sequence gets a token in each.

        All take `seconds`, and the last one takes `last`.
        """
        batch = len(self.decoding)
        self.now += seconds
        self.began = self.now - last
        self.step += steps
        self.context += batch * steps
        self.held += batch * steps
        self.totals.generated_tokens += batch * steps
        if batch:
            self.latencies[math.floor(BUCKETS * math.log(seconds / steps))] += batch * steps

    def _finish_prefills(self) -> None:
        still = []
        for job in self.prefilling:
            if job.left:
                still.append(job)
            else:
                self._first_token(job)
        self.prefilling = still

    def _first_token(self, job: Job) -> None:
        """Count the token that ends a prefill; after a preemption it is not the first."""
        totals, request = self.totals, job.request
        totals.generated_tokens += 1
        totals.computed_tokens += job.context - job.cached
        if not job.generated:
            job.first_token = self.now
            totals.prompt_tokens += request.prompt_tokens
            totals.first_tokens += 1
        job.generated += 1
        job.ends = self.step + request.output_tokens - job.generated
        number = next(self._numbers)
        self.decoding[job] = number
        self.context += job.context
        heapq.heappush(self._ends, (job.ends, number, job))

    def _finish_decodes(self) -> None:
        ends = self._ends
        while ends and ends[0][0] <= self.step:
            _, number, job = heapq.heappop(ends)
            if self.decoding.get(job) == number:
                self._leave(job)
                self._count(job)

    def _count(self, job: Job) -> None:
        job.finished = self.now
        totals = self.totals
        totals.finished += 1
        totals.queue_seconds += job.admitted - job.request.arrival
        totals.prefill_seconds += job.first_token - job.admitted
        totals.prefilled_tokens += job.request.prompt_tokens - job.cached

    def _leave(self, job: Job) -> None:
        """Take a decoding sequence out of the batch, and its cache back."""
        del self.decoding[job]
        before = job.generated
        job.generated = job.request.output_tokens - (job.ends - self.step)
        grown = job.generated - before
        self.context -= job.context + grown
        self.held -= job.held + grown
        if job.request.prefix:
            self.prefixes.give_back(job.request)

    def _make_room(self) -> int:
        """Preempt the latest admitted until each decoding sequence can have one more token.

        Returns the free tokens.
        """
        while (free := self._free_tokens()) < len(self.decoding) and self.running > 1:
            self._preempt()
        return free

    def _preempt(self) -> None:
        if self.prefilling:
            job = self.prefilling.pop()
            self.held -= job.held
            if job.request.prefix:
                self.prefixes.give_back(job.request)
        else:
            job = next(reversed(self.decoding))
            self._leave(job)
        job.preemptions += 1
        self.totals.preemptions += 1
        self.waiting.appendleft(job)
        self.queued_tokens += job.request.prompt_tokens


def _steps_in(seconds: float, first: float, growth: float) -> int:
    """Steps until `seconds` have passed, if the first takes `first` and each next `growth` more."""
    if growth * seconds < 1e-6 * first * first:
        return math.ceil(seconds / first)
    linear = first - growth / 2
    return math.ceil((math.sqrt(linear * linear + 2 * growth * seconds) - linear) / growth)
