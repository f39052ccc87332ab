"""Stores for the viewer's tests: small runs with everything that a page shows, and one whose every text is hostile."""

from __future__ import annotations

import math
import random
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from agentrl.messages import Message, ToolCall, assistant, system, tool_result, user
from agentrl.store import RunStore, TaskRecord
from agentrl.trajectory import Branch, StopReason, ToolCallRecord, Trajectory, Turn

ENV = "agentrl/Arithmetic-v0"
SCRIPT = "<script>window.hacked = 1</script>"
IMAGE = "<img src=x onerror='window.hacked = 1'>"
ATTRIBUTE = "\"' onmouseover=window.hacked=1 autofocus onfocus='window.hacked=1' x=\""
TEMPLATE = "{{ 7 * 7 }}${7*7}</textarea></title></script><svg/onload=window.hacked=1>"
ANSI = "\x1b[2J\x1b[31mred\x1b[0m\x07\x00"
BIDI = "user\u202etxt.exe\u202c \u2066hidden\u2069\u200b\ufeff"
HOSTILE = " ".join((SCRIPT, IMAGE, ATTRIBUTE, TEMPLATE, ANSI, BIDI, "javascript:alert(1)"))

CONFIG = """\
name: {name}
out: runs
seed: {seed}
steps: {steps}
model: {{name: {model}, precision: fp32}}
env: {{id: agentrl/Arithmetic-v0, options: {{levels: [1, 2]}}}}
optimiser: {{lr: {lr}, betas: [0.9, 0.95]}}
"""


def byte_tokenizer() -> Tokenizer:
    """Every byte is a token: any text has ids, and a character may take several."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


TOKENIZER = byte_tokenizer()


def ids_of(text: str) -> list[int]:
    return TOKENIZER.encode(text).ids


def policy_turn(text: str, calls: tuple[ToolCall, ...], rng: random.Random, **more: object) -> Turn:
    """A turn that said `text`, with made-up probabilities and timings."""
    said = text + "".join(f"<tool_call>{call.name}({call.arguments})</tool_call>" for call in calls)
    sampled = ids_of(said)
    timings = {stage: rng.uniform(0.01, 0.4) for stage in ("queue", "prefill", "decode", "tokenise", "env")}
    if calls:
        timings |= {"tool": rng.uniform(0.01, 0.3), "tool_queue": rng.uniform(0.0, 0.1)}
    values: dict[str, object] = {
        "new_ids": ids_of("<|user|>question<|assistant|>"),
        "prefix_turn": None,
        "sampled_ids": sampled,
        "logprobs": [-rng.expovariate(1.5) for _ in sampled],
        "message": assistant(text, calls),
        "weights_hash": "0123456789abcdef",
        "timings": timings,
        **more,
    }
    return Turn(**values)  # type: ignore[arg-type]


def episode(task: int, member: int, *, right: bool = True, failing: bool = False, seed: int = 0) -> Trajectory:
    """A question, a call of the calculator, an answer."""
    rng = random.Random(f"{task}.{member}.{seed}")
    left, other = rng.randrange(10, 90), rng.randrange(10, 90)
    call = ToolCall(id="call_0", name="calculator", arguments=f'{{"expression": "{left} + {other}"}}')
    result = "error: division by zero" if failing else str(left + other)
    answer = str(left + other if right else left - other)
    record = ToolCallRecord("calculator", call.arguments, result, "failed" if failing else None, 0.012, 0.002)
    turns = [
        policy_turn(
            "I add the two numbers.",
            (call,),
            rng,
            observation=[tool_result(result, "call_0", "calculator")],
            tool_calls=[record],
            tool_error=failing,
            state_key="start",
        ),
        policy_turn(f"The answer is {answer} ✓", (), rng, prefix_turn=0, reward=1.0 if right else 0.0),
    ]
    return Trajectory(
        f"train:{task}",
        ENV,
        member=member,
        seed=seed,
        opening=[system("Use the calculator."), user(f"What is {left} + {other}?")],
        turns=turns,
        metrics={"correct": float(right), "tool_calls": 1.0},
        seconds=sum(sum(turn.timings.values()) for turn in turns) + 0.3,
        timings={"judge": 0.05},
        info={"level": 1 + task % 2, "gold": left + other, "answer": answer},
    )


def aborted(task: int, member: int) -> Trajectory:
    """An episode that met a deadline before its first turn."""
    return Trajectory(
        f"train:{task}",
        ENV,
        member=member,
        opening=[user("What is 1 + 1?")],
        stop_reason=StopReason.TIMEOUT,
        error="no place within episode_seconds=30",
        seconds=30.0,
        timings={"queue": 30.0},
    )


def branched(task: int) -> list[Trajectory]:
    """A group of four: member 1 left member 0 after its first turn, member 2 left member 1, member 3 stands alone."""
    root = episode(task, 0)
    children = []
    for member, parent in ((1, 0), (2, 1)):
        child = episode(task, 0, right=member == 1)
        child.member, child.branch = member, Branch(parent=parent, turns=1)
        child.turns[0].timings = {}
        child.turns[1].parent = f"{parent}.0"
        children.append(child)
    return [root, *children, episode(task, 3, right=False)]


def hostile(member: int = 0) -> Trajectory:
    """An episode in which every text is an attack."""
    rng = random.Random(member)
    call = ToolCall(id="x", name=HOSTILE[:60], arguments=f'{{"a": "{SCRIPT}"}} {HOSTILE}', error=HOSTILE)
    turn = policy_turn(
        HOSTILE,
        (call,),
        rng,
        observation=[tool_result(HOSTILE, "x", SCRIPT), user(HOSTILE)],
        tool_calls=[ToolCallRecord(SCRIPT, HOSTILE, HOSTILE, SCRIPT)],
        state_key=HOSTILE,
        weights_hash=HOSTILE,
        parent=HOSTILE,
    )
    return Trajectory(
        HOSTILE,
        SCRIPT,
        member=member,
        opening=[system(HOSTILE), Message(role="user", content=HOSTILE)],  # type: ignore[arg-type]
        turns=[turn],
        stop_reason=StopReason.ENV_ERROR,
        error=HOSTILE,
        metrics={SCRIPT: 1.0},
        seconds=1.0,
        info={"gold": HOSTILE, "answer": HOSTILE, SCRIPT: HOSTILE},
    )


def training_metrics(step: int, steps: int, lift: float = 0.0) -> dict[str, float]:
    """Made-up metrics of a step, deterministic."""
    rng = random.Random(step)
    done = step / max(1, steps)
    accuracy = min(1.0, 0.2 + lift + 0.7 * (1 - math.exp(-3 * done)) + rng.gauss(0, 0.03))
    return {
        "accuracy": accuracy,
        "reward": accuracy,
        "loss": 0.02 * math.exp(-2 * done) + rng.gauss(0, 0.002),
        "grad_norm": 1.5 * math.exp(-done) + abs(rng.gauss(0, 0.2)),
        "lr": 1e-5 * (1 - done),
        "tokens": 2900 - 700 * done + rng.gauss(0, 80),
        "seconds": 38 + rng.gauss(0, 2),
        "seconds/rollout": 18 + rng.gauss(0, 1),
        "seconds/update": 19 + rng.gauss(0, 1),
        "stop/terminated": 0.95,
        "stop/timeout": 0.05,
        "mismatch/kl": 10 ** (-4 + rng.gauss(0, 0.3)),
    }


def make_training(folder: Path, *, steps: int = 12, groups: int = 2, lift: float = 0.0, lr: float = 1e-5) -> int:
    """A training run with curves, groups, branches, advantages, judgements and a tokenizer; the run's number."""
    (folder / "policy").mkdir(parents=True)
    TOKENIZER.save(str(folder / "policy" / "tokenizer.json"))
    config = CONFIG.format(name=folder.name, seed=0, steps=steps, model="no-such-model", lr=lr)
    with RunStore(folder / "store.sqlite") as store:
        run = store.begin_run(folder.name, config, meta={"recipe": "grpo"})
        store.log(run, "eval/base", 0, {"accuracy": 0.2, "accuracy_low": 0.1, "accuracy_high": 0.3})
        for step in range(1, steps + 1):
            store.log(run, "train", step, training_metrics(step, steps, lift))
            for group in range(groups if step <= 3 else 0):
                add_group(store, run, step, group)
        store.log(run, "eval/trained", steps, {"accuracy": 0.85, "accuracy_low": 0.78, "accuracy_high": 0.91})
        store.add_tasks(run, ENV, [TaskRecord("train:0", "train", 1, [user("?")], {"answer": 42})])
        store.update_run(run, status="finished")
    return run


def add_group(store: RunStore, run: int, step: int, group: int) -> None:
    """One group of four with its advantages."""
    name = f"{step:06d}.{group:04d}"
    members = branched(group) if group == 0 else [episode(group, member, right=member % 2 == 0) for member in range(3)]
    if group == 1:
        members[1] = episode(group, 1, right=False, failing=True)
        members.append(aborted(group, 3))
    for trajectory in members:
        store.add_episode(run, "train", step, name, trajectory.member, trajectory)
        sign = 1.0 if trajectory.metrics.get("correct") else -0.6
        rng = random.Random(step)
        advantages = [[sign * rng.uniform(0.2, 1.0) for _ in turn.sampled_ids] for turn in trajectory.turns]
        store.set_advantages(run, "train", step, name, trajectory.member, advantages)
    store.add_judgement(run, "train", step, name, 0, "judge-model", 0, True, "The reasoning is sound.")


def make_evaluation(folder: Path, *, tasks: int = 6, samples: int = 2) -> int:
    """An evaluation run of one entry."""
    folder.mkdir(parents=True)
    config = f"name: core\nentries:\n  arithmetic: {{env: {ENV}, tasks: {tasks}, samples: {samples}}}\n"
    meta = {"suite": "core", "suite_version": 1, "model": "smollm2-135m-instruct", "model_kind": "policy", "seed": 0}
    with RunStore(folder / "store.sqlite") as store:
        run = store.begin_run(folder.name, config, "eval", meta | {"finished": True})
        for task in range(tasks):
            for sample in range(samples):
                trajectory = episode(task, sample, right=(task + sample) % 3 > 0)
                store.add_episode(run, "eval/arithmetic", 0, f"{task:05d}", sample, trajectory)
        store.update_run(run, status="finished")
    return run


def make_hostile(folder: Path) -> int:
    """A run in which every text is an attack."""
    folder.mkdir(parents=True)
    attack = HOSTILE.replace("\x00", "")
    with RunStore(folder / "store.sqlite") as store:
        run = store.begin_run(attack, f"name: |\n  {SCRIPT}\n{attack!r}: 1\n", meta={SCRIPT: attack, "model": attack})
        for step in (1, 2, 3):
            store.log(run, "train", step, {attack: 1.0 / step, "reward": float(step)})
        store.log(run, f"eval/{SCRIPT}", 0, {SCRIPT: 1.0})
        for member in (0, 1):
            store.add_episode(run, f"eval/{SCRIPT}", 0, attack[:80], member, hostile(member))
            store.add_judgement(run, f"eval/{SCRIPT}", 0, attack[:80], member, SCRIPT, 0, None, HOSTILE)
    return run


def make_everything(root: Path) -> Path:
    """A folder of runs: two trainings, an evaluation, a hostile one."""
    make_training(root / "first")
    make_training(root / "second", lift=0.1, lr=3e-5)
    make_evaluation(root / "eval" / "core-smollm2-0a1b2c3d")
    make_hostile(root / "hostile")
    return root
