// The same in another language: node robot.mjs FOLDER AGENT, after npm install onnxruntime-node.
// docs/deploy.md describes what goes in and what comes out.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import ort from "onnxruntime-node";

const [folder, name, steps = "20"] = process.argv.slice(2);
const policy = JSON.parse(readFileSync(join(folder, "policy.json"), "utf8"));
const me = policy.agents.find((agent) => agent.name === name);
const session = await ort.InferenceSession.create(join(folder, me.file));

let memory = new Float32Array(policy.memory_size); // zeros where an episode begins
let previous = -1n; // no action yet
for (let step = 0; step < Number(steps); step++) {
  const obs = new Float32Array(policy.obs_size); // the rest stays zero
  for (let i = 0; i < me.obs_size; i++) obs[i] = Math.sin(step + i); // a sensor
  const possible = new Uint8Array(policy.max_actions).fill(1, 0, me.n_actions);
  const answer = await session.run({
    obs: new ort.Tensor("float32", obs, [1, obs.length]),
    prev_action: new ort.Tensor("int64", BigInt64Array.of(previous), [1]),
    agent_id: new ort.Tensor("int64", BigInt64Array.of(BigInt(me.agent_id)), [1]),
    avail_actions: new ort.Tensor("bool", possible, [1, possible.length]),
    memory: new ort.Tensor("float32", memory, [1, memory.length]),
  });
  previous = answer.action.data[0];
  memory = answer.memory_out.data;
  console.log(String(previous), me.action_meanings[Number(previous)] ?? "");
}
