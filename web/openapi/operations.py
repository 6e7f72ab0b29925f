"""Every operation of the server with its words, shapes and examples: the table behind
`/openapi.json`. A test reads it against the router, sends its examples, and tries its ranges.

Where a request is read into a nested or richer value, its shape on the wire is put together here
from the annotated fields of those values.
"""

from __future__ import annotations

from typing import Any

from web.engine.requests import CONFIGURABLE
from web.midi.sound import DEFAULT_FONT
from web.openapi.document import JSON, ErrorAnswer, Operation, Schema, Shapes
from web.schemas.answers import ChatCompletion, Completion, Model, Models, Status, TokenizerInfo
from web.schemas.billing import CREDIT_GRANTS, SUBSCRIPTION
from web.schemas.chat import ConversationFields
from web.schemas.completions import FORMS, PROMPT
from web.schemas.embeddings import INPUT, EmbeddingFields, Embeddings
from web.schemas.fields import TOKEN_ID
from web.schemas.midi import MusicFilesRequest, MusicRequest, Score
from web.schemas.sampling import SamplingFields
from web.schemas.sound import MidiToWavRequest, TextToWavRequest
from web.schemas.switch_model import SwitchRequest
from web.schemas.tokenize import TEXTS, Text, Tokens
from web.schemas.tools import CHOICES

ABOUT = """\
RWKV models behind the API of OpenAI and that of RWKV Runner. Paths with and without `/v1` are the
same. Unknown fields are ignored; numbers and booleans may be sent as text; null means absent.

以 OpenAI 与 RWKV Runner 的接口提供 RWKV 模型。带与不带 `/v1` 的路径等价。
未知字段会被忽略；数字与布尔值可用字符串发送；null 等同于缺省。
"""

_MESSAGES = [{"role": "user", "content": "hello"}]
_SUCCESS = {"const": "success"}
_STREAM: Schema = {
    "stream": {
        "type": ["boolean", "null"],
        "description": "Send the answer as it comes. 以流的方式返回。",
    },
    "stream_options": {
        "type": ["object", "null"],
        "description": "Only with stream. 仅在 stream 为 true 时可用。",
        "properties": {
            "include_usage": {
                "type": ["boolean", "null"],
                "description": "Tell the tokens at the end. 在流末尾返回用量。",
            }
        },
    },
}
_MODEL: Schema = {
    "model": {
        "type": ["string", "null"],
        "description": "Any name: the loaded model answers. 任意名称，总由已加载的模型回答。",
        "examples": ["rwkv"],
    }
}
_PAGE: Schema = {"text/html": {"schema": {"type": "string"}}}
_FILE = {"type": "string", "format": "binary"}
_UPLOAD: Schema = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "properties": {"file_data": _FILE},
            "required": ["file_data"],
        }
    },
    "application/octet-stream": {"schema": _FILE},
}
GUIDE_NOTES = (
    "p:24:a p:2a:a p:31:a p:39:a p:3b:a p:45:a b:26:a g:3e:a g:3e:a g:42:a g:42:a g:45:a g:45:a "
    "pi:3e:a pi:42:a pi:45:a t14 p:24:0 p:2a:0 p:31:0 p:39:0 p:3b:0 p:45:0 t2 p:2a:a p:3b:a p:45:a "
    "t14 p:2a:0 p:3b:0 p:45:0 b:26:0 g:3e:0"
)
_TOKENS: Schema = {
    "type": "array",
    "items": TOKEN_ID,
    "description": "As /tokenize gives them. 由 /tokenize 得到的 token。",
}
_EVENTS = "Server-sent events, the last of them [DONE]. 服务器推送事件，以 [DONE] 结束。"
_ECHO: Schema = {
    "echo": {
        "type": ["boolean", "null"],
        "description": "Begin the answer with its prompt. 在回答前附上提示词。",
    }
}
_FORM: Schema = {
    "response_format": {
        "type": ["object", "null"],
        "description": "With a model of MIDI tokens: the file that prompt and answer make, not "
        "streamed. MIDI 模型可直接返回由提示词与回答生成的文件。",
        "required": ["type"],
        "properties": {"type": {"enum": list(FORMS)}},
    }
}
_CUSTOM_CUDA: Schema = {
    "customCuda": {
        "type": ["boolean", "null"],
        "description": "Has no effect here. 在此无作用。",
    }
}
_TEXT: Schema = {
    "type": "string",
    "description": "A text, in the place of messages. 文本，与 messages 二选一。",
}
_PAGES: Schema = {
    "type": "object",
    "required": ["pages"],
    "properties": {
        "pages": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["page_content", "metadata", "type"],
                "properties": {
                    "page_content": {"type": "string"},
                    "metadata": {
                        "type": "object",
                        "required": ["source"],
                        "properties": {
                            "source": {"type": "string"},
                            "page": {"type": "integer", "minimum": 0},
                            "total_pages": {"type": "integer", "minimum": 1},
                        },
                    },
                    "type": {"const": "Document"},
                },
            },
        }
    },
}


def shapes() -> Shapes:
    """The schemas of all requests and answers."""
    made = Shapes(
        (
            *(ConversationFields, SwitchRequest, SamplingFields, EmbeddingFields, Embeddings),
            *(
                ChatCompletion,
                Completion,
                Models,
                Model,
                Status,
                Tokens,
                TokenizerInfo,
                Text,
                ErrorAnswer,
            ),
            *(MusicRequest, MusicFilesRequest, Score, MidiToWavRequest, TextToWavRequest),
        )
    )
    sampling = made.properties(SamplingFields)
    longest = {"max_completion_tokens": sampling["max_tokens"]}
    generation = {**sampling, **longest, **_STREAM, **_MODEL}
    chat = made.properties(ConversationFields) | CHOICES
    switch = made.properties(SwitchRequest)
    wire = {
        "ChatRequest": ({**chat, **generation}, ["messages"]),
        "CompletionRequest": ({"prompt": PROMPT, **_ECHO, **_FORM, **generation}, ["prompt"]),
        "ConfigRequest": (made.properties(SamplingFields, *CONFIGURABLE), []),
        "SwitchRequest": ({**switch, **_CUSTOM_CUDA}, ["model"]),
        "TokenizeRequest": ({**dict.fromkeys(TEXTS, _TEXT), **chat, **generation}, []),
        "DetokenizeRequest": ({"tokens": _TOKENS}, ["tokens"]),
        "EmbeddingRequest": (
            {"input": INPUT, **made.properties(EmbeddingFields), **_MODEL},
            ["input"],
        ),
    }
    parts = (
        *("SamplingFields", "EmbeddingFields", "ConversationFields"),
        *("Tools", "Function", "Call"),
    )
    for unused in parts:
        del made.components[unused]
    for name, (properties, required) in wire.items():
        made.components[name] = {
            "type": "object",
            "properties": properties,
            "required": required,
        }
    return made


def _body(name: str, **examples: Any) -> Schema:
    schema = {"$ref": f"#/components/schemas/{name}"}
    named = {key: {"value": value} for key, value in examples.items()}
    return {JSON: {"schema": schema, "examples": named}}


def _json(schema: Schema, example: Any = None) -> Schema:
    media: Schema = {"schema": schema}
    if example is not None:
        media["example"] = example
    return {JSON: media}


def _stream(what: str) -> Schema:
    frame = f'data: {{"object":"{what}", ...}}\n\ndata: [DONE]\n\n'
    return {"text/event-stream": {"schema": {"description": _EVENTS}, "example": frame}}


def _parameter(name: str, said: str, where: str = "query", **more: Any) -> Schema:
    kind = {"type": "string", "minLength": 1} if where == "path" else {"type": "string"}
    return {"name": name, "in": where, "description": said, "schema": kind, **more}


def _both(*paths: str) -> tuple[str, ...]:
    return tuple(prefix + path for path in paths for prefix in ("", "/v1"))


def operations(made: Shapes) -> tuple[Operation, ...]:
    generating = (400, 429, 503)
    return (
        Operation(
            method="post",
            paths=_both("/chat/completions"),
            tag="Completions",
            said="The next message of a conversation. 对话补全。",
            takes=_body("ChatRequest", hello={"messages": _MESSAGES}),
            gives=_json(made.of(ChatCompletion)) | _stream("chat.completion.chunk"),
            errors=generating,
        ),
        Operation(
            method="post",
            paths=_both("/completions"),
            tag="Completions",
            said="The continuation of a text. 文本续写。",
            takes=_body(
                "CompletionRequest",
                text={"prompt": "那一天,人们又想起来被暴雨支配的恐惧..."},
                stop={"prompt": "hello", "stop": ["\n\nUser", "\n\nA"]},
            ),
            gives=_json(made.of(Completion))
            | _stream("text_completion")
            | {kind: {"schema": _FILE} for kind in ("audio/midi", "audio/wav")},
            errors=(*generating, 501),
        ),
        Operation(
            method="post",
            paths=_both("/embeddings", "/engines/text-embedding-ada-002/embeddings"),
            tag="Embeddings",
            said="Vectors of length 1, by which texts are compared. 文本向量（单位长度）。",
            takes=_body(
                "EmbeddingRequest",
                text={"input": "a big apple"},
                packed={"input": ["one", "two"], "encoding_format": "base64", "dimensions": 256},
            ),
            gives=_json(made.of(Embeddings)),
            errors=generating,
        ),
        Operation(
            method="get",
            paths=_both("/models"),
            tag="MISC",
            said="The loaded model; with --runner-models also two names of OpenAI's. 模型列表。",
            gives=_json(made.of(Models)),
        ),
        Operation(
            method="get",
            paths=_both("/models/{model_id}"),
            tag="MISC",
            said="One model. 单个模型。",
            parameters=(_parameter("model_id", "Its name. 模型名称。", "path", required=True),),
            gives=_json(made.of(Model)),
            errors=(404,),
        ),
        Operation(
            method="post",
            paths=("/switch-model",),
            tag="Configs",
            said="Loads another model, or none; answers when it is loaded. 切换或卸载模型。",
            takes=_body("SwitchRequest", unload={"model": None}, switch={"model": "model/xxx.pth"}),
            gives=_json(_SUCCESS),
            errors=(304, 400),
        ),
        Operation(
            method="post",
            paths=("/update-config",),
            tag="Configs",
            said="The defaults of requests that do not say. 修改默认参数。",
            takes=_body("ConfigRequest", guide={"max_tokens": 1000, "top_p": 0.3}),
            gives=_json(_SUCCESS),
            errors=(400,),
        ),
        *(
            Operation(
                method="post",
                paths=paths,
                tag="State Cache",
                said=said,
                gives=_json(_SUCCESS),
                errors=errors,
            )
            for paths, said, errors in (
                (
                    ("/enable-state-cache",),
                    "Keeps states of the texts to come, from none on. 启用（清空后的）状态缓存。",
                    (),
                ),
                (("/disable-state-cache",), "Keeps no states. 禁用状态缓存。", ()),
                (
                    ("/reset-state-cache", "/reset-state"),
                    "Forgets the states that are kept. 重置状态缓存。",
                    (400,),
                ),
            )
        ),
        Operation(
            method="get",
            paths=("/status",),
            tag="Configs",
            said="0 offline, 2 loading, 3 working; and the load. 服务器状态与负载。",
            gives=_json(made.of(Status)),
        ),
        Operation(
            method="get",
            paths=("/health",),
            tag="Configs",
            said="Whether a model answers. 是否有模型可用。",
            gives=_json({"const": {"status": "ok"}}),
            errors=(503,),
        ),
        Operation(
            method="get",
            paths=("/metrics",),
            tag="Configs",
            said="Counters and histograms for Prometheus. Prometheus 指标。",
            gives={"text/plain": {"schema": {"type": "string"}}},
        ),
        Operation(
            method="post",
            paths=("/exit",),
            tag="Configs",
            said="Ends the server; running answers may end first. 结束服务器。",
            gives=_json(_SUCCESS),
        ),
        Operation(
            method="post",
            paths=("/tokenize",),
            tag="MISC",
            said="What a model is fed, as text and as tokens. 实际输入模型的文本与 token。",
            takes=_body(
                "TokenizeRequest", prompt={"prompt": "hello"}, chat={"messages": _MESSAGES}
            ),
            gives=_json(made.of(Tokens)),
            errors=(400, 503),
        ),
        Operation(
            method="post",
            paths=("/detokenize",),
            tag="MISC",
            said="The text of tokens. 将 token 还原为文本。",
            takes=_body("DetokenizeRequest", hi={"tokens": [105, 106]}),
            gives=_json(made.of(Text)),
            errors=(400, 503),
        ),
        Operation(
            method="get",
            paths=("/tokenizer_info",),
            tag="MISC",
            said="Which tokenizer the model has, as vLLM tells it. 分词器信息。",
            gives=_json(made.of(TokenizerInfo)),
            errors=(400, 503),
        ),
        Operation(
            method="post",
            paths=("/file-to-text",),
            tag="File Process",
            said="The pages of a text file or a PDF. 提取文本或 PDF 文件的内容。",
            parameters=(
                _parameter(
                    "file_name",
                    "Says what the file is: ends in .txt or .pdf. Without it, the form's field of "
                    "this name does, or the part's own name. "
                    "以 .txt 或 .pdf 结尾，说明文件类型；缺省时取同名表单字段或文件名。",
                    example="233.PDF",
                ),
                _parameter("file_encoding", "Of a text file. 文本文件的编码。", example="utf-8"),
            ),
            takes=_UPLOAD,
            gives=_json(_PAGES),
            errors=(400, 429),
        ),
        Operation(
            method="post",
            paths=("/text-to-midi",),
            tag="MIDI",
            said="The MIDI file of a text of notes. 将音符文本转换为 MIDI 文件。",
            takes=_body("MusicRequest", guide={"text": GUIDE_NOTES}),
            gives={"audio/midi": {"schema": _FILE}},
            errors=(400, 429),
        ),
        Operation(
            method="post",
            paths=("/midi-to-text",),
            tag="MIDI",
            said="The text of a MIDI file. 将 MIDI 文件转换为音符文本。",
            takes=_UPLOAD,
            gives=_json(made.of(Score), {"text": "<start> p:24:a p:2a:a t14 p:24:0 <end>"}),
            errors=(400, 429),
        ),
        Operation(
            method="post",
            paths=("/txt-to-midi",),
            tag="MIDI",
            said="Converts a text file of the workspace. 转换工作目录中的文本文件。",
            takes=_body(
                "MusicFilesRequest",
                guide={"midi_path": "midi/sample.mid", "txt_path": "midi/sample.txt"},
            ),
            gives=_json(_SUCCESS),
            errors=(400, 429),
        ),
        Operation(
            method="post",
            paths=("/midi-to-wav",),
            tag="MIDI",
            said="Renders a MIDI file of the workspace. 将工作目录中的 MIDI 文件渲染为 WAV。",
            takes=_body(
                "MidiToWavRequest",
                guide={
                    "midi_path": "midi/sample.mid",
                    "sound_font_path": DEFAULT_FONT,
                    "wav_path": "midi/sample.wav",
                },
            ),
            gives=_json(_SUCCESS),
            errors=(400, 429, 501),
        ),
        Operation(
            method="post",
            paths=("/text-to-wav",),
            tag="MIDI",
            said="The sound of a text of notes: files in the workspace, or for those who accept "
            "audio/wav the answer itself. "
            "将音符文本渲染为 WAV：写入工作目录，或以 audio/wav 返回。",
            takes=_body(
                "TextToWavRequest",
                guide={
                    "sound_font_path": DEFAULT_FONT,
                    "text": "p:24:a p:2a:a p:31:a",
                    "wav_name": "sample",
                },
            ),
            gives=_json(_SUCCESS) | {"audio/wav": {"schema": _FILE}},
            errors=(400, 429, 501),
        ),
        Operation(
            method="get",
            paths=("/dashboard/billing/credit_grants",),
            tag="MISC",
            said="An account with enough credit. 额度信息。",
            gives=_json({"type": "object"}, CREDIT_GRANTS),
        ),
        Operation(
            method="get",
            paths=("/dashboard/billing/subscription",),
            tag="MISC",
            said="Its limits. 订阅信息。",
            gives=_json({"type": "object"}, SUBSCRIPTION),
        ),
        Operation(
            method="get",
            paths=("/openapi.json",),
            tag="Root",
            said="This document. 本文档。",
            gives=_json({"type": "object"}),
        ),
        Operation(
            method="get",
            paths=("/docs",),
            tag="Root",
            said="This document as a page to try it from (Swagger UI). 可交互的文档页面。",
            gives=_PAGE,
            errors=(501,),
        ),
        Operation(
            method="get",
            paths=("/redoc",),
            tag="Root",
            said="This document as a page to read (ReDoc). 便于阅读的文档页面。",
            gives=_PAGE,
            errors=(501,),
        ),
        Operation(
            method="get",
            paths=("/",),
            tag="Root",
            said="Whether the server is up. 服务器是否在运行。",
            gives=_json({"const": {"Hello": "World!"}}),
        ),
    )
