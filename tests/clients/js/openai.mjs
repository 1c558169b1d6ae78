// openai for JavaScript: answers, streams, chains, tools, structured output, what is stored.
import assert from "node:assert/strict";
import { test } from "node:test";

import OpenAI, { BadRequestError, NotFoundError } from "openai";
import { zodResponsesFunction, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const client = new OpenAI({ baseURL: process.env.BASE_URL, maxRetries: 0 });
const greedy = { model: process.env.MODEL, temperature: 0, max_output_tokens: 120 };

const Forecast = z.object({
  city: z.enum(["Paris", "Rome"]),
  sky: z.enum(["clear", "cloudy"]),
  warm: z.boolean(),
});
const getWeather = zodResponsesFunction({
  name: "get_weather",
  description: "Get the weather of a city.",
  parameters: z.object({ city: z.enum(["Paris", "Rome"]) }),
});
const forced = { type: "function", name: "get_weather" };
const question = { role: "user", content: "What is the weather in Paris?" };

test("an answer, and the next one by reference", async () => {
  const first = await client.responses.create({ input: "Name a river.", ...greedy });
  assert.ok(first.output_text);
  const second = await client.responses.create({
    input: "Another.",
    previous_response_id: first.id,
    ...greedy,
  });
  assert.equal(second.previous_response_id, first.id);
  assert.equal(second.caching.path, "hit");
  const sentBack = [{ role: "user", content: "Name a river." }, ...first.output];
  const whole = await client.responses.create({
    input: [...sentBack, { role: "user", content: "Another." }],
    ...greedy,
  });
  assert.equal(whole.output_text, second.output_text);
});

test("a stream", async () => {
  let text = "";
  let final;
  for await (const event of await client.responses.create({ input: "Name a river.", stream: true, ...greedy })) {
    if (event.type === "response.output_text.delta") text += event.delta;
    final = event.response;
  }
  const output = final.output[0].content[0].text;
  assert.equal(output, text);
  assert.ok(text);
  assert.equal((await client.responses.retrieve(final.id)).output_text, text);
});

test("the stream helper follows, and a new chain goes on from it", async () => {
  const stream = client.responses.stream({
    input: question.content,
    text: { format: zodTextFormat(Forecast, "forecast") },
    ...greedy,
  });
  let snapshot;
  stream.on("response.output_text.delta", (event) => (snapshot = event.snapshot));
  const final = await stream.finalResponse();
  assert.equal(final.output_text, snapshot);
  Forecast.parse(final.output_parsed);
});

test("parse makes the object", async () => {
  const answer = await client.responses.parse({
    input: question.content,
    text: { format: zodTextFormat(Forecast, "forecast") },
    ...greedy,
  });
  Forecast.parse(answer.output_parsed);
});

for (const byReference of [true, false]) {
  test(`a tool loop ${byReference ? "by reference" : "sent back whole"}`, async () => {
    const tools = [getWeather];
    const first = await client.responses.parse({
      input: [question],
      tools,
      tool_choice: forced,
      store: byReference,
      ...greedy,
    });
    const [call] = first.output;
    assert.equal(call.type, "function_call");
    assert.ok(["Paris", "Rome"].includes(call.parsed_arguments.city));
    const result = { type: "function_call_output", call_id: call.call_id, output: "sunny" };
    const plain = first.output.map(({ parsed_arguments, ...item }) => item);
    const rest = byReference
      ? { input: [result], previous_response_id: first.id }
      : { input: [question, ...plain, result], store: false };
    const answer = await client.responses.create({ tools, tool_choice: "none", ...rest, ...greedy });
    assert.ok(answer.output_text);
  });
}

test("what is stored can be listed and deleted", async () => {
  const first = await client.responses.create({ input: "Name a river.", ...greedy });
  const second = await client.responses.create({ input: "Another.", previous_response_id: first.id, ...greedy });
  const items = [];
  for await (const item of client.responses.inputItems.list(second.id, { limit: 1 })) items.push(item);
  assert.deepEqual(
    items.map((item) => item.role),
    ["user", "assistant", "user"],
  );
  const { input_tokens: count } = await client.responses.inputTokens.count({
    model: greedy.model,
    input: "Another.",
    previous_response_id: first.id,
  });
  assert.equal(count, second.usage.input_tokens);
  await client.responses.delete(first.id);
  await assert.rejects(client.responses.retrieve(first.id), NotFoundError);
});

test("errors are the SDK's classes", async () => {
  const refused = client.responses.create({ input: "x", previous_response_id: "resp_0", ...greedy });
  await assert.rejects(refused, (error) => {
    assert.ok(error instanceof BadRequestError);
    assert.deepEqual([error.code, error.param], ["previous_response_not_found", "previous_response_id"]);
    return true;
  });
});

test("hanging up in mid-stream leaves the chain as it was", async () => {
  const first = await client.responses.create({ input: "Name a river.", ...greedy });
  const settings = { ...greedy, max_output_tokens: 4000 };
  const stream = await client.responses.create({
    input: "Count to a thousand.",
    previous_response_id: first.id,
    stream: true,
    ...settings,
  });
  for await (const event of stream) if (event.type === "response.output_text.delta") break;
  stream.controller.abort();
  const next = await client.responses.create({ input: "Another.", previous_response_id: first.id, ...greedy });
  assert.ok(next.output_text);
});
