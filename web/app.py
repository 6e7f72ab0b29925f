"""The WSGI application. Open this first: the route table says which file answers what.

A request meets `web/transport/request_body.py`, then its resource, which reads it with
`web/schemas/`, begins a turn with `web/chat/turn.py` and writes the answer as its API has it, with
`web/dialects/`. Errors of every kind leave through `web/transport/error_answers.py`. `create_app`
starts nothing: the runtime is handed in and started by whoever owns the process.
"""

from __future__ import annotations

from typing import Any

import falcon
from falcon.inspect import inspect_routes
from falcon.routing import CompiledRouter

from web import errors
from web.chat.turn import Turns
from web.config import Config
from web.dialects import openai_errors
from web.engine.model_host import Runtime
from web.engine.states import StartStates
from web.files.allowed_paths import Roots
from web.files.documents import Documents, Limits
from web.midi import sound
from web.midi.composition import Compositions
from web.midi.conversion import Conversions
from web.resources.openai.billing import BillingResource
from web.resources.openai.chat import ChatCompletionsResource
from web.resources.openai.completions import CompletionsResource
from web.resources.openai.embeddings import EmbeddingsResource
from web.resources.openai.models import ModelResource, ModelsResource
from web.resources.runner.exit import ExitResource
from web.resources.runner.file_to_text import FileToTextResource
from web.resources.runner.midi import MidiToTextResource, TextToMidiResource, TxtToMidiResource
from web.resources.runner.sound import MidiToWavResource, TextToWavResource
from web.resources.runner.state_cache import StateCacheResource
from web.resources.runner.switch_model import SwitchModelResource
from web.resources.runner.update_config import UpdateConfigResource
from web.resources.server.metrics import MetricsResource
from web.resources.server.openapi import OpenApiResource
from web.resources.server.pages import PageResource, StaticResource
from web.resources.server.status import HealthResource, RootResource, StatusResource
from web.resources.server.tokenize import TokenizeResource, TokenizerInfoResource
from web.transport.allowed_hosts import Hosts
from web.transport.answer_counts import CountAnswers
from web.transport.api_keys import ApiKeys
from web.transport.cors import Origins
from web.transport.deploy_guard import DeployGuard
from web.transport.error_answers import ErrorAnswers
from web.transport.request_body import RequestBody, Room
from web.transport.request_id import RequestId
from web.transport.routes import Absent, Spellings
from web.transport.static_files import REDOC, SWAGGER_UI, files


class Application(falcon.App):
    """falcon's App and the runtime behind it, which the hooks of the server start and close."""

    runtime: Runtime

    def add_route(self, uri_template: str, resource: Any, **options: Any) -> None:
        """What answers GET answers HEAD: the same header, and gunicorn leaves the body out."""
        suffix = f"_{options['suffix']}" if options.get("suffix") else ""
        get, head = f"on_get{suffix}", f"on_head{suffix}"
        if hasattr(resource, get) and not hasattr(resource, head):
            setattr(resource, head, getattr(resource, get))
        super().add_route(uri_template, resource, **options)


def create_app(runtime: Runtime, config: Config) -> Application:
    """The application over a runtime that may be unstarted."""
    router = CompiledRouter()
    app = Application(
        router=router,
        middleware=[
            CountAnswers(runtime.metrics.answered),
            Spellings(),
            RequestId(),
            Origins(config.cors_origin, Hosts(config.public_name, any=bool(config.api_key))),
            ApiKeys(config.api_key),
            RequestBody(config.max_body, Room(config.body_memory), config.log_prompts),
            DeployGuard(lambda: runtime.deploy),
        ],
    )
    app.runtime = runtime
    app.req_options.strip_url_path_trailing_slash = True
    app.resp_options.default_media_type = falcon.MEDIA_JSON  # of answers that name no other
    answers = ErrorAnswers(router, openai_errors.body)
    app.add_error_handler(errors.Refusal, answers.refuse)
    app.add_error_handler(errors.ClientGone, answers.client_gone)
    app.add_error_handler(Exception, answers.fault)
    app.set_error_serializer(answers.serialize)

    roots = Roots(config)
    starts = StartStates(roots, lambda: runtime.deploy)
    turns = Turns(runtime, starts)
    chat = ChatCompletionsResource(runtime, turns)
    embeddings = EmbeddingsResource(runtime, config)
    models = ModelsResource(runtime, config)
    model = ModelResource(runtime)
    billing = BillingResource()
    state_cache = StateCacheResource(runtime)
    tokenize = TokenizeResource(runtime, turns)
    static = files()
    documents = Documents(
        Limits(
            pages=config.file_pages,
            seconds=config.file_seconds,
            memory=config.file_memory,
            text=config.file_text,
        )
    )
    conversions = Conversions(runtime)
    renders = sound.Sound(
        sound.Limits(config.sound_length, config.sound_seconds, config.sound_memory)
    )
    compositions = Compositions(conversions, renders)
    completions = CompletionsResource(runtime, turns, compositions)

    app.add_route("/", RootResource())
    app.add_route("/openapi.json", OpenApiResource())
    app.add_route("/docs", PageResource(static, "docs.html", SWAGGER_UI))
    app.add_route("/redoc", PageResource(static, "redoc.html", REDOC))
    app.add_route("/static/{path:path}", StaticResource(static))
    app.add_route("/status", StatusResource(runtime))
    app.add_route("/metrics", MetricsResource(runtime))
    app.add_route("/health", HealthResource(runtime))
    app.add_route("/exit", ExitResource())
    app.add_route("/dashboard/billing/credit_grants", billing)
    app.add_route("/dashboard/billing/subscription", billing, suffix="subscription")
    app.add_route("/tokenize", tokenize)
    app.add_route("/detokenize", tokenize, suffix="back")
    app.add_route("/tokenizer_info", TokenizerInfoResource(runtime))
    app.add_route("/file-to-text", FileToTextResource(runtime, documents))
    app.add_route("/text-to-midi", TextToMidiResource(runtime, conversions))
    app.add_route("/midi-to-text", MidiToTextResource(runtime, conversions))
    app.add_route("/txt-to-midi", TxtToMidiResource(runtime, conversions, roots))
    app.add_route("/midi-to-wav", MidiToWavResource(runtime, roots, renders))
    app.add_route("/text-to-wav", TextToWavResource(runtime, roots, conversions, renders))
    app.add_route("/switch-model", SwitchModelResource(runtime, roots))
    app.add_route("/enable-state-cache", state_cache, suffix="enable")
    app.add_route("/disable-state-cache", state_cache, suffix="disable")
    for path in ("/reset-state", "/reset-state-cache"):
        app.add_route(path, state_cache, suffix="reset")
    app.add_route("/update-config", UpdateConfigResource(runtime, starts))
    for prefix in ("", "/v1"):
        app.add_route(f"{prefix}/chat/completions", chat)
        app.add_route(f"{prefix}/completions", completions)
        app.add_route(f"{prefix}/embeddings", embeddings)
        app.add_route(f"{prefix}/engines/text-embedding-ada-002/embeddings", embeddings)
        app.add_route(f"{prefix}/models", models)
        app.add_route(f"{prefix}/models/{{model_id:path}}", model)
    absent = Absent(answers, [route.path for route in inspect_routes(app) if "{" not in route.path])
    app.add_error_handler(falcon.HTTPRouteNotFound, absent.no_route)
    app.add_error_handler(falcon.HTTPMethodNotAllowed, absent.no_method)
    return app
