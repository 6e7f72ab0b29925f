// What OpenAI's client for Node gets. Prints one JSON object.

import OpenAI from "openai";
import { VERSION } from "openai/version";

const told = JSON.parse(process.argv[2]);
const ask = { model: "any", messages: told.messages, temperature: 0 };

function clientOf(name, apiKey = "any") {
  return new OpenAI({ baseURL: `${told[name]}/v1`, apiKey, maxRetries: 0 });
}

async function errorOf(call) {
  try {
    await call();
  } catch (problem) {
    if (!(problem instanceof OpenAI.APIError)) throw problem;
    const { status, message, param, code } = problem;
    return { kind: problem.constructor.name, status, message, param, code };
  }
}

function callsOf(message) {
  return (message.tool_calls ?? []).map((call) => [
    call.function.name,
    JSON.parse(call.function.arguments),
  ]);
}

const client = clientOf("plain");
const keyed = clientOf("keyed", "wrong");
const scripted = clientOf("scripted");
const report = { version: VERSION, models: [] };
for await (const model of await client.models.list()) report.models.push(model.id);

const answer = await client.chat.completions.create(ask);
report.chat = answer.choices[0].message.content;
report.reason = answer.choices[0].finish_reason;
report.usage = [answer.usage.prompt_tokens, answer.usage.completion_tokens];

report.streamed = "";
const stream = await client.chat.completions.create({
  ...ask,
  stream: true,
  stream_options: { include_usage: true },
});
for await (const { choices, usage } of stream) {
  for (const { delta, finish_reason } of choices) {
    report.streamed += delta.content ?? "";
    report.streamed_reason = finish_reason;
  }
  if (usage) report.streamed_usage = [usage.prompt_tokens, usage.completion_tokens];
}

const options = { model: "any", prompt: "x", max_tokens: 5, logit_bias: { 91: 100 } };
report.completed = (await client.completions.create(options)).choices[0].text;

report.bad = await errorOf(() => client.chat.completions.create({ ...ask, temperature: 5 }));
report.missing = await errorOf(() => client.models.retrieve("nope"));
report.unknown = await errorOf(() => keyed.models.list());

const texts = { model: "any", input: ["hello", "goodbye"] };
const coded = await client.embeddings.create(texts); // asks for base64, and decodes it
const plain = await client.embeddings.create({ ...texts, encoding_format: "float" });
report.embedded = coded.data.map((one) => one.embedding);
report.embedded_plain = plain.data.map((one) => one.embedding);

const tools = { ...ask, tools: told.tools };
report.tools = callsOf((await scripted.chat.completions.create(tools)).choices[0].message);
const final = await scripted.chat.completions.stream(tools).finalChatCompletion();
report.tools_streamed = callsOf(final.choices[0].message);
console.log(JSON.stringify(report));
