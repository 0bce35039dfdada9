// The plan of a statement, read from the text of EXPLAIN: its steps, and which reads the rows of which.

export type Step = {
  name: string;
  /** Where it runs: HBee or HComb. */
  role: string;
  facts: string[];
  operators: string[];
  /** Names of the steps whose rows it reads. */
  reads: string[];
  table: string;
};

/** Returns the steps of `plan`; none if its text has another form. */
export function steps(plan: string): Step[] {
  const found: Step[] = [];
  for (const line of plan.split("\n")) {
    const head = /^step (.+?) \((\w+)\)(?:: (.*))?$/.exec(line);
    if (head) {
      found.push({ name: head[1], role: head[2], facts: head[3] ? [head[3]] : [], operators: [], reads: [], table: "" });
      continue;
    }
    const step = found[found.length - 1];
    if (!step || !line.trim()) continue;
    if (/^ {4}/.test(line)) {
      step.operators.push(line.slice(4));
      const inbox = /InboxExec: step=(.+?), partitions=/.exec(line);
      if (inbox && !step.reads.includes(inbox[1])) step.reads.push(inbox[1]);
    } else {
      const fact = line.trim();
      step.facts.push(fact);
      const table = /^table (.+?): /.exec(fact);
      if (table) step.table = step.table ? `${step.table}, ${table[1]}` : table[1];
    }
  }
  return found;
}
