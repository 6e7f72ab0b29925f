"""The WSGI application. Open this first: the route table says which file answers what.

A request meets `web/middleware.py`, then its resource, which reads it with `web/schemas/`, renders
its prompt with `web/prompts/`, runs it with `web/generation.py` and writes the answer, streamed by
`web/sse.py`. Errors of every kind leave through `web/errors.py`. `create_app` starts nothing: the
runtime is handed in and started by whoever owns the process.
"""

from __future__ import annotations

from typing import Any

import falcon
from falcon.inspect import inspect_routes

from web import errors
from web.api_keys import ApiKeys
from web.config import Config
from web.deploy import DeployGuard
from web.files.documents import Documents, Limits
from web.middleware import CountAnswers, RequestBody, RequestId, Room
from web.midi import sound
from web.midi.composition import Compositions
from web.midi.conversion import Conversions
from web.origins import Hosts, Origins
from web.paths import Roots
from web.resources.billing import BillingResource
from web.resources.chat import ChatCompletionsResource
from web.resources.completions import CompletionsResource
from web.resources.embeddings import EmbeddingsResource
from web.resources.exit import ExitResource
from web.resources.file_to_text import FileToTextResource
from web.resources.metrics import MetricsResource
from web.resources.midi import MidiToTextResource, TextToMidiResource, TxtToMidiResource
from web.resources.models import ModelResource, ModelsResource
from web.resources.openapi import OpenApiResource
from web.resources.pages import PageResource, StaticResource
from web.resources.sound import MidiToWavResource, TextToWavResource
from web.resources.state_cache import StateCacheResource
from web.resources.status import HealthResource, RootResource, StatusResource
from web.resources.switch_model import SwitchModelResource
from web.resources.tokenize import TokenizeResource, TokenizerInfoResource
from web.resources.update_config import UpdateConfigResource
from web.routes import Absent, Spellings
from web.runtime import Runtime
from web.static_files import REDOC, SWAGGER_UI, files
from web.tuned import StartStates


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
    app = Application(
        middleware=[
            CountAnswers(runtime.metrics),
            Spellings(),
            RequestId(),
            Origins(config.cors_origin, Hosts(config.public_name, any=bool(config.api_key))),
            ApiKeys(config.api_key),
            RequestBody(config.max_body, Room(config.body_memory), config.log_prompts),
            DeployGuard(runtime),
        ]
    )
    app.runtime = runtime
    app.req_options.strip_url_path_trailing_slash = True
    app.set_error_serializer(errors.serialize)
    app.add_error_handler(Exception, errors.on_fault)
    app.add_error_handler(errors.ClientGone, errors.on_client_gone)

    roots = Roots(config)
    starts = StartStates(runtime, roots)
    chat = ChatCompletionsResource(runtime, starts)
    embeddings = EmbeddingsResource(runtime, config)
    models = ModelsResource(runtime, config)
    model = ModelResource(runtime)
    billing = BillingResource()
    state_cache = StateCacheResource(runtime)
    tokenize = TokenizeResource(runtime)
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
    completions = CompletionsResource(runtime, starts, compositions)

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
    absent = Absent([route.path for route in inspect_routes(app) if "{" not in route.path])
    app.add_error_handler(falcon.HTTPRouteNotFound, absent.no_route)
    app.add_error_handler(falcon.HTTPMethodNotAllowed, absent.no_method)
    return app
