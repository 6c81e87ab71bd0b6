"""Ways in which a fine-tuning goes wrong, named while they happen.

- *diverged*: a logit is not a finite number.
- *end-of-text collapse*: the top token is end-of-text on more than 20 % of the probes. One-token answers followed by
  end-of-text teach a model to end, not to answer.
- *not learning*: half the steps are done and accuracy on the training rows has risen by less than 5 points and is
  not above 95 %.
- *overfitting*: accuracy on training rows minus held-out accuracy has grown by more than 20 points since step 0 (before
  any training the two differ by how hard their wordings are).

Thresholds are conventions, fixed before any run was looked at; the accuracies stand beside them in the index.
"""

from dataclasses import dataclass

END_OF_TEXT_SHARE = 0.20
LEAST_RISE = 0.05
MASTERED = 0.95
LARGEST_GAP = 0.20


@dataclass(frozen=True)
class Probe:
    """What a checkpoint does on training rows and on held-out prompts: shares from 0 to 1."""

    step: int
    train_accuracy: float
    heldout_accuracy: float
    end_of_text: float
    finite: bool = True
    """Every logit of the held-out prompts is a number."""


@dataclass(frozen=True)
class Unseen:
    """A checkpoint that was not looked at: the names of `Probe`, and no numbers."""

    step: int
    train_accuracy: None = None
    heldout_accuracy: None = None
    end_of_text: None = None


@dataclass(frozen=True)
class Finding:
    """A named failure, the step at which it was first seen, and a sentence."""

    kind: str
    step: int
    text: str


def examine(probes: list[Probe], steps: int) -> list[Finding]:
    """What is wrong at the last of the probes (the first is step 0)."""
    first, now = probes[0], probes[-1]
    if not now.finite:
        text = "logits are not numbers any more: lower learning_rate; nothing after this step means anything"
        return [Finding("diverged", now.step, text)]
    found = []
    if now.end_of_text > END_OF_TEXT_SHARE:
        found.append(
            Finding(
                "end-of-text collapse",
                now.step,
                f"the top token is end-of-text on {now.end_of_text:.0%} of the held-out prompts; train with loss: answer, "
                "which does not teach the model to end",
            )
        )
    rise = now.train_accuracy - first.train_accuracy
    if now.step >= steps / 2 and rise < LEAST_RISE and now.train_accuracy < MASTERED:
        found.append(
            Finding(
                "not learning",
                now.step,
                f"accuracy on training rows is {now.train_accuracy:.0%} at step {now.step}, {first.train_accuracy:.0%} at "
                "step 0; raise learning_rate or steps",
            )
        )
    gap = (now.train_accuracy - now.heldout_accuracy) - (first.train_accuracy - first.heldout_accuracy)
    if gap > LARGEST_GAP:
        found.append(
            Finding(
                "overfitting",
                now.step,
                f"accuracy is {now.train_accuracy:.0%} on training rows and {now.heldout_accuracy:.0%} on held-out prompts, "
                f"a gap {gap * 100:.0f} points wider than at step 0; use more rows, fewer steps or a lower learning_rate",
            )
        )
    return found
