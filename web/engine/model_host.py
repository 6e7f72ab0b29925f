"""What a worker process holds: the model being loaded or served, and the engine behind it.

Made unstarted by `web.wsgi`; started by `post_worker_init` in `web/gunicorn.conf.py`, after the
fork, because native threads do not survive one; asked by the resources for what it serves, and told
by `resources/runner/switch_model.py` what to serve instead. Nothing here blocks the hub: weights
are converted by native threads, an index is parsed in a thread, and a model is freed in one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import asdict, replace
from pathlib import Path
from types import EllipsisType

import gevent
import msgspec

import rwkv_native as rn
from web import errors
from web.admission import Admission
from web.config import Config
from web.engine import model_loading
from web.engine.client import Counts, Load, Loader
from web.engine.families import Defaults, Lengths, Persona, configured, persona_for
from web.engine.in_process import InProcess
from web.engine.known_answers import KnownAnswers
from web.engine.metrics import Metrics
from web.engine.model_loading import Choice
from web.engine.requests import SamplingOptions
from web.engine.retiring import Retired
from web.engine.serving import Limits, Serving
from web.engine.settings_store import SettingsStore
from web.threadpool import at_disk
from web.transport.disconnects import Hangups

log = logging.getLogger("gunicorn.error")

# /status, as RWKV Runner's clients know it.
OFFLINE, LOADING, WORKING = 0, 2, 3

_USUAL_PROMPT = Config().max_prompt_tokens
# One request has so many times `max_batch` prompts in the engine: it never runs dry between two of
# its events, and a thousand prompts with large options do not lie there all at once.
_WINDOW = 2
_LOOK_EVERY = 0.02  # seconds between two looks at a load
_FORGETTING = 2.0  # seconds that a running step and those who save more may delay it
_TELL_EVERY = 2.0  # seconds between two lines about it

Tell = Callable[[str], None]


class Busy(Exception):
    """A load is in progress."""


class Runtime:
    """At most one model that takes requests, its engine, and the watch over clients."""

    def __init__(self, config: Config, loader: Loader | None = None) -> None:
        """`loader`: of engines elsewhere; by default they are in this process."""
        self._config = config
        self.metrics = Metrics()  # of all models that come and go
        self._hangups: Hangups | None = None
        self._loader: Loader = loader or InProcess(config, self.metrics)
        self._loading: Load | None = None
        self._load_greenlet: gevent.Greenlet | None = None
        self._serving: Serving | None = None
        self._choice: Choice | None = None  # what serves, or served until its successor loads
        self._known: dict[str, Choice] = {}  # every model that has served, by the name it had
        self._succeeds = False
        self._aside: Serving | None = None  # takes no requests while its successor loads
        self._retired = Retired()
        self._keeps_states = config.cache_mb != 0
        self._settings = SettingsStore(config)
        lengths = Lengths(config.max_tokens, min(config.default_max_tokens, config.max_tokens))
        self._limits = Limits(config.max_prompt_tokens, lengths)
        self._admission = Admission(config.max_batch + config.max_queue, config.queue_mb << 20)
        self._status = OFFLINE
        self._stopping = False

    # What resources ask.

    @property
    def status(self) -> int:
        return self._status

    @property
    def healthy(self) -> bool:
        """Whether a model answers."""
        return self._serving is not None and self._serving.engine.alive

    @property
    def failed(self) -> bool:
        """Whether an engine gives no answers any more: only another process can."""
        return any(serving.engine.failed for serving in self._engines())

    @property
    def stopping(self) -> bool:
        """Whether this process is about to end: what runs may end, and nothing begins."""
        return self._stopping

    @property
    def succeeds(self) -> bool:
        """Whether this worker has taken over from another one that served."""
        return self._succeeds

    @property
    def progress(self) -> float | None:
        """The share of the weights that a load in progress has converted."""
        if self._status != LOADING:
            return None
        done, total = self._loading.progress if self._loading is not None else (0, 0)
        return done / total if total else 0.0

    @property
    def model_name(self) -> str | None:
        return self._serving.name if self._serving is not None else None

    @property
    def model(self) -> Serving | None:
        """What answers now, for those who only describe it."""
        return self._serving

    @property
    def context_length(self) -> int | None:
        """Tokens that the served model was trained for, or the server takes if these are fewer;
        None: nothing says. A state has no end, so it is no limit of the model's own."""
        if self._serving is None:
            return None
        limits = [self._serving.info.context_length]
        if self._config.max_prompt_tokens != _USUAL_PROMPT:
            limits.append(self._config.max_prompt_tokens)
        return min((tokens for tokens in limits if tokens), default=None)

    @property
    def hangups(self) -> Hangups:
        """The watch over clients; 503 before the start and after the end."""
        if self._hangups is None:
            raise errors.stopping()
        return self._hangups

    @property
    def family(self) -> str | None:
        """That of the served model."""
        return self._serving.persona.family if self._serving is not None else None

    @property
    def created(self) -> int:
        """When the served model was loaded, in seconds since the epoch; 0: none is."""
        return self._serving.created if self._serving is not None else 0

    @property
    def defaults(self) -> dict[str, float | bool | None]:
        """What holds where a request says nothing: values of the served model, and what
        /update-config has set; without a model, the latter alone."""
        if self._serving is not None:
            return asdict(self._serving.persona.defaults)
        stored = msgspec.structs.asdict(self._settings.now.defaults)
        names = Defaults.__dataclass_fields__
        return {name: stored[name] for name in names if stored[name] is not None}

    @property
    def deploy(self) -> bool:
        """Whether requests may not change the server."""
        return self._settings.now.deploy

    @property
    def draining(self) -> int:
        """Models that have been replaced and still answer their last requests."""
        return len(self._retired)

    def known(self, name: str) -> Choice | None:
        """The model that this server has called so: one that it has served, the configured one, or
        the demo model."""
        found = self._known.get(name) or self._configured_choice()
        if found is not None and found.name == name:
            return found
        if name == "demo":
            with contextlib.suppress(rn.Error):  # an installation without it
                path = os.fspath(rn.demo_model())
                return Choice(path, Path(path).name)
        return None

    def serving(self) -> Serving:
        """The model to answer with; raises 503 while it loads, has failed or the server stops, and
        400 without one."""
        if self._stopping:
            raise errors.stopping()
        if self._serving is not None:
            if self._serving.engine.failed:
                raise errors.engine_failed()
            return self._serving
        raise errors.model_loading() if self._status == LOADING else errors.model_not_loaded()

    def counts(self) -> Counts:
        total = self._retired.counts
        for serving in self._engines():
            total += serving.engine.counts()
        return replace(total, waiting=total.waiting + self._admission.pending)

    def caches(self) -> dict[str, Counter[str]]:
        """The fields of rn.CacheStats by the name of the model, over all times it was loaded."""
        total = {name: Counter(ended) for name, ended in self._retired.caches.items()}
        for serving in self._engines():
            total.setdefault(serving.name, Counter()).update(asdict(serving.engine.cache()))
        return total

    @property
    def limits(self) -> Limits:
        return self._limits

    @property
    def keeps_states(self) -> bool:
        return self._keeps_states

    # What they tell it.

    def keep_states(self, on: bool) -> None:
        """Whether the model that is loaded keeps states of earlier texts; it begins with none. The
        next one does as the server was told at its start."""
        self._keeps_states = on
        if self._serving is not None:
            self._serving.engine.keep_states(on)

    def switch(self, choice: Choice | None) -> None:
        """Loads another model, or with None unloads, and returns when that has ended.

        Requests at work go on, on the model that they began with. Where memory is too small for
        both models they have 30 s to end. If the load fails, the previous model serves again.
        Raises Busy during another load, and 400 or 500 for one that fails.
        """
        if self._load_greenlet:
            raise Busy
        if self._stopping or self._hangups is None:
            raise errors.stopping()
        if choice is None:
            self._put_aside(OFFLINE)
            self._retire()
            self._choice = None
            self._settings.change(switched=True, choice=None)
            return
        problem = self._begin(choice, log.info).get()  # goes on if this client leaves
        if isinstance(problem, gevent.GreenletExit):
            raise errors.stopping()
        if problem is not None:
            raise errors.load_failed(problem.message, problem.detail, problem.param)

    def enter_deploy(self) -> None:
        """Until the process ends."""
        self._settings.change(deploy=True)

    def configure(
        self,
        given: SamplingOptions,
        state: Path | EllipsisType | None = ...,
        taken_back: Collection[str] = (),
    ) -> None:
        """Other defaults for requests to come, the model's own for those that are taken back, and
        another tuned state if one is given; None: none. Everything or, for a state that does not
        fit the model (400), nothing."""
        while True:
            serving, stored = self._serving, self._settings.now
            path, start = stored.state, None if serving is None else serving.start
            if not isinstance(state, EllipsisType):
                path = None if state is None else os.fspath(state)
                start = None
                if serving is not None and state is not None:
                    start = serving.engine.states.open(state)
            if self._serving is serving and self._settings.now is stored:
                break  # else the model was replaced meanwhile, or somebody else was quicker
        kept = msgspec.structs.replace(stored.defaults, **dict.fromkeys(taken_back))
        defaults = given.over(kept)
        if serving is not None:
            persona = configured(_own(serving), defaults)
            self._serving = replace(serving, persona=persona, start=start)
        self._settings.change(defaults=defaults, state=path)

    # What the worker's hooks do.

    def start(self, tell: Tell | None = None) -> None:
        """Begins to load the configured model, or the one that requests have put in its place (and
        if that has gone, the configured one again), and returns at once. `tell` gets lines for a
        log."""
        if self._hangups is None:
            self._hangups = Hangups()
        self._succeeds = self._settings.take_over()
        kept, configured = self._settings.now, self._configured_choice()
        choice = kept.choice if kept.switched else configured
        if choice is not None:
            self._status = LOADING
            instead = configured if kept.switched else None
            self._begin(choice, tell or log.info, kept.switched, instead)

    def _configured_choice(self) -> Choice | None:
        config = self._config
        if config.model is not None and config.model.strip().lower() == "none":
            return None
        try:
            path = config.model or os.fspath(rn.demo_model())
        except rn.Error as problem:
            log.error("failed to load the demo model: %s", problem)
            return None
        adapted = config.adapter is not None
        return Choice(path, path, config.strategy, config.tokenizer, adapted)

    def begin_to_stop(self) -> None:
        """From here on requests are told to come again; those at work go on until close()."""
        self._stopping = True

    def close(self) -> None:
        """Ends the load, the requests and the engines. Any number of times."""
        if self._load_greenlet is not None:
            self._load_greenlet.kill()
            self._load_greenlet = None
        engines, self._serving, self._aside = self._engines(), None, None
        self._retired.clear()
        self._status = OFFLINE
        for serving in engines:
            serving.engine.detach()
            serving.engine.end()
        if self._hangups is not None:
            self._hangups.close()
            self._hangups = None

    def _engines(self) -> list[Serving]:
        held = [self._serving, self._aside, *self._retired.engines]
        return [serving for serving in held if serving is not None]

    # A load, in a greenlet of its own.

    def _begin(
        self, choice: Choice, tell: Tell, switched: bool = True, instead: Choice | None = None
    ) -> gevent.Greenlet:
        self._load_greenlet = gevent.spawn(self._replace, choice, tell, switched, instead)
        return self._load_greenlet

    def _replace(
        self, choice: Choice, tell: Tell, switched: bool, instead: Choice | None
    ) -> model_loading.Failure | None:
        """Loads a model in the place of the present one, or if it cannot be, another one
        `instead`. Returns what went wrong."""
        try:
            self._make_room(choice)
            serving = self._configured(self._open(choice, tell))
        except Exception as problem:
            failure = model_loading.failure(problem, choice)
            fault = problem if model_loading.is_fault(problem) else None
            log.error("failed to load %s: %s", choice.name, failure.detail, exc_info=fault)
            if instead is not None:
                log.warning("%s is loaded in its place, as configured", instead.name)
                return self._replace(instead, tell, False, None)
            self._restore(tell)
            return failure
        self._take(serving, choice)
        self._settings.change(switched=switched, choice=choice if switched else None)
        self._retire()
        return None

    def _make_room(self, choice: Choice) -> None:
        """Puts the present model aside, and out of memory if it must go. Nothing changes before
        what the file's index and the strategy show is right."""
        wanted = at_disk(model_loading.needed, choice)
        engines = self._engines()
        if wanted > model_loading.available():
            _forget_states(engines)
        free = model_loading.available()
        held = sum(serving.info.weight_bytes for serving in engines)
        if wanted > free + held:
            raise model_loading.too_little(wanted, free + held)
        tight = wanted > free and held > 0
        if tight:
            at_disk(self._rehearse, choice)
        engines.clear()
        self._put_aside(LOADING)
        if tight:
            self._retire()
            self._retired.wait()

    def _put_aside(self, status: int) -> None:
        self._aside, self._serving = self._serving, None
        self._status = status

    def _take(self, serving: Serving, choice: Choice) -> None:
        self._serving, self._choice, self._status = serving, choice, WORKING
        self._known[choice.name] = choice

    def _restore(self, tell: Tell) -> None:
        """After a load that failed: the previous model again, from memory or else from its file."""
        previous, self._choice = self._choice, None
        if self._aside is not None and previous is not None:
            self._take(self._configured(self._aside), previous)
            self._aside = None
        elif self._serving is not None:
            self._choice = previous  # it failed before anything had changed
        elif previous is not None:
            try:
                self._take(self._configured(self._open(previous, tell)), previous)
            except Exception as problem:
                log.error("failed to load %s again: %s", previous.name, problem)
                self._status = OFFLINE
        else:
            self._status = OFFLINE

    def _configured(self, serving: Serving) -> Serving:
        """With what /update-config has set, as far as it suits this model."""
        while True:
            stored, start = self._settings.now, None
            if stored.state is not None:
                try:
                    start = serving.engine.states.open(Path(stored.state))
                except errors.Refusal as problem:
                    log.warning("%s: %s: no tuned state", stored.state, problem)
            if self._settings.now is stored:
                persona = configured(_own(serving), stored.defaults)
                return replace(serving, persona=persona, start=start)

    def _rehearse(self, choice: Choice) -> None:
        """Raises what the strategy and the index alone make a load raise."""
        self._loader.begin(choice).cancel()

    def _open(self, choice: Choice, tell: Tell) -> Serving:
        config, name = self._config, choice.name
        begun = time.monotonic()
        tell(f"loading {name} ({choice.strategy})")
        self._loading = at_disk(self._loader.begin, choice)
        try:
            told = time.monotonic()
            while not self._loading.finished:
                gevent.sleep(_LOOK_EVERY)
                if time.monotonic() - told >= _TELL_EVERY:
                    told = time.monotonic()
                    tell(f"loading {name}: {100 * (self.progress or 0.0):.0f} %")
            loaded = self._loading.result()
        except BaseException:
            self._loading.cancel()
            raise
        finally:
            self._loading = None
        self._keeps_states = config.cache_mb != 0
        info, tokenizer = loaded.info, loaded.tokenizer
        tell(
            f"{name}: RWKV-{info.version}, {info.layers} layers of {info.width}, "
            f"{info.weight_bytes / 1e6:,.0f} MB as {info.strategy}, states {info.state_type} "
            f"({info.isa}, {info.threads} threads), ready after {time.monotonic() - begun:.1f} s"
        )
        assert self._hangups is not None
        return Serving(
            name=name,
            info=info,
            created=int(time.time()),
            persona=replace(
                persona_for(info, tokenizer), verbatim=config.prompt_format == "runner"
            ),
            tokenizer=tokenizer,
            engine=loaded.engine,
            hangups=self._hangups,
            limits=self._limits,
            admission=self._admission,
            window=_WINDOW * config.max_batch,
            known=KnownAnswers(tokenizer),
        )

    def _retire(self) -> None:
        """Lets go of the model put aside, once its last request has ended."""
        if self._aside is not None:
            self._retired.add(self._aside)
            self._aside = None


def _own(serving: Serving) -> Persona:
    """The persona of a model as it was before anything was configured."""
    own = persona_for(serving.info, serving.tokenizer)
    return replace(own, verbatim=serving.persona.verbatim)


def _forget_states(engines: list[Serving]) -> None:
    """Gives back what can be done without, between two steps of each engine."""
    for serving in engines:
        serving.engine.clear_cache()
        serving.engine.states.forget()
    end = time.monotonic() + _FORGETTING
    while any(serving.engine.cache().bytes for serving in engines):
        if time.monotonic() > end:
            return
        gevent.sleep(_LOOK_EVERY)
