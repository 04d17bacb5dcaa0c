"""Guards: rules over the steps of a run that warn about or stop what runs away.

    steps      what a rule sees of a step, and what it finds: plain values
    masking    ids, times and counters, which make the same thing look new
    reading    what is new in a request: tools that were used, what was said
    loops      the rules against going in circles
    budgets    what a run, or several processes together, may use
    recorded   steps under way and recorded ones, brought into the form that rules see
    watch      `Guards`: the rules on a run, and what is done about what they find

Rules are functions of the steps that they were shown and nothing else, so they say the same of a run under way, of its
replay and of its trace.
"""

from escapement.engine.guards.steps import Verdict
from escapement.engine.guards.watch import Guards, review

__all__ = ["Guards", "Verdict", "review"]
