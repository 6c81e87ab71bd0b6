// Words that need one: told where they stand, on focus and under the pointer.
const TERMS = {
  "edge attribution":
    "An estimate of what happens to the logit difference when one edge carries the corrupted prompt's value (gradients along the way; EAP-IG, arXiv 2403.17806).",
  faithfulness:
    "The share of the effect that a circuit keeps alone, all other edges carrying the corrupted prompt's values: (m(circuit) − c)/(b − c). 1 is all of it.",
  reuse:
    "How much of what the new task's own circuit does the old task's circuit does, on the new task in the tuned model, between a floor and a ceiling: (old − floor)/(ceiling − floor).",
  ledger:
    "The gain split among all weights: each weight's change times the gradient of choosing, integrated along the training. The pieces add up to the gain, in nats.",
  grafts: "Weight grafting: some weights of one model put into the other, all else as it is.",
  Jaccard: "What two sets share, divided by what either has.",
  Attention: "What share of a token's look goes to each earlier token; shares of one head sum to 1.",
  "Direct attribution": "What a part writes into answer minus foils directly, not through later parts.",
  "Logit lens": "What the model would say if it stopped at this layer.",
  role: "A known way of working: name mover, duplicate-token head, induction head, S-inhibition (arXiv 2211.00593).",
  "Activation patching": "A value of the clean run put into the corrupted run: what it brings back is what it carries.",
};
