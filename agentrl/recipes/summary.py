"""What a recipe is made of and what it needs, read off its components.

Invariant: nothing here is written by hand; a recipe that names another component says something else here.
"""

from __future__ import annotations

from agentrl.assembly import build_loss, build_transforms
from agentrl.components import split_spec
from agentrl.config import ComponentSpec, RunConfig
from agentrl.needs import union


def slots(config: RunConfig) -> dict[str, str]:
    """The composition: slot -> what fills it, with options."""
    loss, rollout = config.loss, config.rollout
    filled = {
        "sampler": _text(config.sampler),
        "rollout": f"{_text(rollout.strategy)}, {rollout.groups_per_step} tasks x {rollout.group_size} episodes",
        "credit": " -> ".join(_text(spec) for spec in config.advantages),
        "objective": _text(loss.objective),
        "regularisers": " + ".join(_text(spec) for spec in loss.regularisers),
        "correction": "" if loss.correction is None else _text(loss.correction),
        "reduction": loss.reduction + ("" if loss.norm is None else f", C = {loss.norm:g}"),
        "updates": f"{config.optimiser.minibatches} minibatches x {config.optimiser.epochs} epochs, "
        f"lr {config.optimiser.lr:g}",
    }
    if rollout.drop_without_signal:
        filled["rollout"] += ", groups without signal are replaced"
    if mask := config.optimiser.mask:
        filled["updates"] += f", {mask.name} entries of the linear layers only"
    if config.critic is not None:
        filled["critic"] = config.critic.kind
    return {slot: text for slot, text in filled.items() if text}


def needs(config: RunConfig) -> list[str]:
    """What the run computes or keeps beside policy and rewards, in words, sorted."""
    transforms = build_transforms(config)
    objective, regularisers, correction = build_loss(config)
    components = [objective, *regularisers]
    columns = union([*(item.needs for item in transforms), *(item.needs for item in components)])
    found = {f"scored: {column}" for column in columns}
    found |= {f"in the pass: {name}" for name in union(item.current for item in components)}
    if any(column.startswith(("reference", "tempered_reference")) for column in columns):
        found.add("reference model")
    if config.critic is not None:
        found.add("critic")
    smallest = max((item.min_group_size for item in transforms), default=1)
    if smallest > 1:
        found.add(f"groups of at least {smallest}")
    whole = max((item.unit for item in components), key=("token", "trajectory", "group").index)
    if whole != "token":
        found.add(f"micro-batches of whole {'trajectories' if whole == 'trajectory' else 'groups'}")
    if any(item.prepares for item in components):
        found.add("one more forward pass a minibatch")
    if correction is not None:
        found.add("recomputed log-probabilities")
    if any(item.state_dict() for item in transforms):
        found.add("state in the checkpoint")
    return sorted(found)


def _text(spec: ComponentSpec) -> str:
    name, options = split_spec(spec)
    if not options:
        return name
    return f"{name}({', '.join(f'{key}={value}' for key, value in options.items())})"
