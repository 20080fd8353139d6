"""What the page says in words: what is shown, how to read it, what is not measured."""

INTRO = """\
# Intrinsic dimension, measured

`d_int90` is the number of parameters in which a learner must be free to solve a task: the smallest
d at which a fresh training in a random d-dimensional subspace of its network's D parameters ends
at or above the threshold with probability 1/2. It is one number for a classifier and for a
controller, and every d_int90 below has a 95% interval, open where the trials do not bound it.
"""
OVERVIEW = """\
![d_int90 of every task on one logarithmic axis]({path})

*Every task that has a number, as registered, easiest first.
Filled: local threshold; open: global threshold; bar: 95% interval, a dotted arrow where it is not
bounded; grey tick: D, all parameters of the network.*
"""
BITS = """\
![description length of a solution of every task on one logarithmic axis]({path})

*The same in bits: an upper bound on the description length of a solution at d_int90, z quantised.*
"""
READING = """\
## How to read the tables

- **Trial**: one training at one d with one seed, which draws its own initial weights, subspace,
  data order or environment, and evaluation. Its score is the metric on held-out evaluation at the
  end of training, never the best along the way. A diverged, failed or timed-out trial is not
  solved; it is never dropped.
- **Baseline**: mean score of native trials (all D parameters) with seeds of their own, ± their
  standard deviation, n of them.
- **Threshold**: *local* is 90% of the way from the floor to the baseline; *global* is a constant
  that the task declares. The floor is the score of having learned nothing; of an accuracy it is 0,
  as in Li et al., not chance, which puts the local threshold a little lower than 90% of what was
  learned.
- **d_int90 [95%]**: p(d), the probability that a fresh trial at d is solved, crosses 1/2 there.
  The interval covers the spread between trials and, for the local threshold, the baseline's own
  uncertainty. `> d`: p is more likely than not below 1/2 at the largest d searched; `≤ d`: above
  1/2 at the smallest; the interval says how surely. *Unfinished*: the d tried so far do not enclose
  the crossing, or the trials bound it on neither side; `–`: not bounded on that side, or not known.
- **Bits [95%]**: the description length of a solution at d_int90, as an upper bound (`bench bits`).
  z is quantised after training and the trial scored anew; so many bits per number have a d_int90 of
  their own, and the bits are their product, with 32 for the quantiser's step. Of those tried that
  have a d_int90, the row shows the one whose interval ends lowest. One unit for a classifier and
  for a controller.
- **Paper rule**: the smallest tested d whose mean score is above the threshold, as in Li et al.
  (2018); it depends on the grid of d and has no interval. For comparison only.
- **Published**: a value from the literature, and whether it lies inside our interval for the same
  threshold. It is the paper's rule on a grid of its own, from another learner and budget, so
  *outside* by a step of a grid says little. *Recorded*, where that is another: what the curve
  behind it gives, the smallest recorded d whose mean score is above 90% of that curve's own
  baseline (local) or our constant (global).
- **Learner**: agent, projection, learning-rate rule (`paper`: the task's own rate; `matched`: times
  sqrt(D/d), with D of the policy alone; `tuned`: a multiplier on that, chosen on validation data at
  pilot values of d or, where the row says so, declared), overrides.
- **Trials** and **compute**: all that the row cost, pilots and baselines included; compute is the
  trials' wall clock, evaluation included, summed. †: the row's trials together do not meet the
  task's own stopping rule (its `baseline_seeds`, its search's `precision` and `seeds`), whoever
  asked for them; the row's section says what is lacking.

In the plots, a dot is a trial and the line is their median, a failed trial counting as lower than
any score; crosses at the foot are failed trials, with their number. Grey: the baseline ± sd, its
trials at the right edge. A diamond on a threshold, with its bar and shading, is d_int90 and its
95% interval, open where it is not bounded; a triangle at the top is a published value.

## What is not measured

d_int90 is an upper bound that holds for this learner, budget and network. A trial that fails at a
small d may show a failure of the *search* in the subspace, not that the subspace holds no solution;
a better learner can only lower it. The interval says how far another set of seeds would move the
number; it does not say how far another learning rate, budget, network or agent would. Rows of the
rule `matched` are the looser bounds: no pilot has chosen their steps, and where `tuned` ones stand
beside them (Comparisons) those tend to be lower. Nor does d_int90 measure how many samples, steps
or seconds a task needs, how well a solution generalises beyond the evaluation named. A local
threshold is relative to its own baseline: a weak baseline makes a task look easy, so compare the
baseline's score before the dimensions. Compare two paradigms with the same in mind: accuracy and
return are both normalised between floor and baseline, but their noise is not alike, nor, row by
row, is the rule of their learning rate. Evolution strategies train natively by OpenAI-ES and few
numbers by CMA-ES, so their local threshold is another learner's.
"""
COMPARISONS = """\
## Comparisons

What else was measured: the same task with another projection, learning-rate rule or network, and
the same problem with another learner. Filled, open, bars and ticks as above.
"""
