// Appends until its standard input ends: by the SQL function and by plain INSERTs, alone and in transactions.
// Says `intended ID` before an event is sent, `committed ID` or `rolled_back ID` when that is known. A connection that
// is ended under it leaves the rest unknown, and it connects again.
import pg from "pg";
import { createInterface } from "node:readline";

const [schema, name, seed] = process.argv.slice(2);
const insert = `insert into ${schema}.events (id, stream, version, type, data) values ($1, $2, $3, $4, $5)`;
const append = `select from ${schema}.append(stream => $1, type => $2, data => $3, id => $4)`;

let drawn = Number(seed);
const random = () => (drawn = (drawn * 48271) % 2147483647) / 2147483647;
const pause = () => random() < 0.15 && new Promise((resolve) => setTimeout(resolve, random() * 20));
const say = (word, ids) => ids.forEach((id) => console.log(`${word} ${id}`));
const intend = () => {
  const id = crypto.randomUUID();
  say("intended", [id]);
  return id;
};

let stopped = false;
createInterface({ input: process.stdin }).on("close", () => (stopped = true));

const connect = async () => {
  const client = new pg.Client();
  client.on("error", () => {}); // a connection that ends between two queries
  await client.connect();
  return client;
};
const isLost = (error) => error.code === undefined || /^(08|57P)/.test(error.code);

let client = await connect();
let version = 0;
while (!stopped) {
  try {
    if (random() < 0.4) {
      const id = intend();
      await client.query(append, [`shared-${Math.floor(random() * 5)}`, "race.run", {}, id]);
      say("committed", [id]);
      continue;
    }
    const ids = [];
    let next = version;
    await client.query("begin");
    for (let left = 1 + Math.floor(random() * 4); left > 0; left -= 1) {
      const id = intend();
      if (random() < 0.5) await client.query(insert, [id, `plain-${name}`, (next += 1), "race.run", "{}"]);
      else await client.query(append, [`own-${name}`, "race.run", {}, id]);
      ids.push(id);
      await pause();
    }
    const commits = random() < 0.8;
    if (commits) version = next; // before it is sent: should it stay unknown, the numbers may be taken
    await client.query(commits ? "commit" : "rollback");
    say(commits ? "committed" : "rolled_back", ids);
  } catch (error) {
    if (!isLost(error)) throw error;
    await client.end().catch(() => {});
    client = await connect();
  }
}
await client.end().catch(() => {});
