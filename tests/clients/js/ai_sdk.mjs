// The Vercel AI SDK: texts, streams, several turns, tools, objects.
import assert from "node:assert/strict";
import { test } from "node:test";

import { createOpenAI } from "@ai-sdk/openai";
import { generateObject, generateText, Output, isStepCount, streamObject, streamText, tool } from "ai";
import { z } from "zod";

const model = createOpenAI({ baseURL: process.env.BASE_URL, apiKey: "unused" }).responses(process.env.MODEL);
const greedy = { model, temperature: 0, maxOutputTokens: 120, maxRetries: 0 };

const forecast = z.object({
  city: z.enum(["Paris", "Rome"]),
  sky: z.enum(["clear", "cloudy"]),
  warm: z.boolean(),
});
const tools = {
  get_weather: tool({
    description: "Get the weather of a city.",
    strict: true,
    inputSchema: z.object({ city: z.enum(["Paris", "Rome"]) }),
    execute: async ({ city }) => ({ city, sky: "clear" }),
  }),
};
const question = { role: "user", content: "What is the weather in Paris?" };
// The first step calls the tool; after that the model may only answer.
const toolFirst = ({ stepNumber }) => ({
  toolChoice: stepNumber === 0 ? { type: "tool", toolName: "get_weather" } : "none",
});

for (const store of [true, false]) {
  const providerOptions = { openai: { store } };

  test(`several turns, store: ${store}`, async () => {
    const messages = [{ role: "user", content: "Name a river." }];
    for (const next of ["Another.", "And one more."]) {
      const turn = await generateText({ ...greedy, messages, providerOptions });
      assert.ok(turn.text);
      assert.ok(turn.usage.outputTokens > 0);
      messages.push(...turn.response.messages, { role: "user", content: next });
    }
    const last = await generateText({ ...greedy, messages, providerOptions });
    assert.ok(last.text);
  });

  test(`a tool loop, store: ${store}`, async () => {
    const options = { ...greedy, tools, prepareStep: toolFirst, stopWhen: isStepCount(2), providerOptions };
    const first = await generateText({ ...options, messages: [question] });
    assert.deepEqual(
      first.steps.map((step) => step.toolCalls.length),
      [1, 0],
    );
    assert.equal(first.steps[0].toolResults[0].output.sky, "clear");
    const history = [question, ...first.response.messages, { role: "user", content: "And in Rome?" }];
    const second = await generateText({ ...options, messages: history });
    assert.ok(second.text);
  });
}

test("the next turn by reference", async () => {
  const first = await generateText({ ...greedy, prompt: "Name a river." });
  const previousResponseId = first.providerMetadata.openai.responseId;
  assert.match(previousResponseId, /^resp_/);
  const second = await generateText({
    ...greedy,
    prompt: "Another.",
    providerOptions: { openai: { previousResponseId } },
  });
  assert.ok(second.text);
  assert.ok(second.usage.inputTokens > first.usage.inputTokens);
});

test("a stream", async () => {
  const streamed = streamText({ ...greedy, prompt: "Name a river." });
  let text = "";
  for await (const part of streamed.textStream) text += part;
  const { text: whole } = await generateText({ ...greedy, prompt: "Name a river." });
  assert.equal(text, whole);
  assert.ok((await streamed.usage).outputTokens > 0);
});

test("a tool loop in a stream", async () => {
  const streamed = streamText({
    ...greedy,
    tools,
    prepareStep: toolFirst,
    stopWhen: isStepCount(2),
    messages: [question],
    onError: ({ error }) => assert.fail(error),
  });
  const kinds = new Set();
  for await (const part of streamed.stream) kinds.add(part.type);
  for (const kind of ["tool-input-delta", "tool-call", "tool-result", "text-delta"]) assert.ok(kinds.has(kind), kind);
  assert.equal((await streamed.steps).length, 2);
});

test("an object", async () => {
  const { object } = await generateObject({ ...greedy, schema: forecast, prompt: question.content });
  forecast.parse(object);
  const { output } = await generateText({
    ...greedy,
    output: Output.object({ schema: forecast }),
    prompt: question.content,
  });
  assert.deepEqual(output, object);
});

test("an object in a stream", async () => {
  const streamed = streamObject({ ...greedy, schema: forecast, prompt: question.content });
  let last;
  for await (const partial of streamed.partialObjectStream) last = partial;
  assert.deepEqual(last, forecast.parse(await streamed.object));
});
