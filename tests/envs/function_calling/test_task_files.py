"""Task files of the leaderboard's form: what is read, and what is wrong in one line with file and line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from agentrl.env import make
from agentrl.envs.function_calling.files import read_problems
from agentrl.errors import ConfigError

ENV = "agentrl/FunctionCalling-v0"
PARAMETERS = {"type": "dict", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FUNCTION = {"name": "math.double", "description": "Doubles.", "parameters": PARAMETERS}


def row(name: str, **changed: Any) -> dict[str, Any]:
    turn = [{"role": "user", "content": f"Double 1 for {name}."}]
    return {"id": name, "question": [turn], "function": [FUNCTION], **changed}


def answer(name: str, **changed: Any) -> dict[str, Any]:
    return {"id": name, "ground_truth": [{"math.double": {"a": [1]}}], **changed}


def write(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join((item if isinstance(item, str) else json.dumps(item)) + "\n" for item in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines.encode()))
    else:
        path.write_text(lines, encoding="utf-8")
    return path


def category(folder: Path, file: str, rows: list[Any], answers: list[Any] | None = None) -> Path:
    if answers is not None:
        write(folder / "possible_answer" / file, answers)
    return write(folder / file, rows)


def published(folder: Path) -> Path:
    """A folder as the published package has it."""
    kinds = ("simple_python", "multiple", "parallel", "parallel_multiple", "live_simple", "live_multiple")
    for kind in kinds:
        names = [f"{kind}_{number}" for number in range(4)]
        category(folder, f"BFCL_v4_{kind}.json", [row(n) for n in names], [answer(n) for n in names])
    for kind in ("irrelevance", "live_irrelevance", "live_relevance"):
        category(folder, f"BFCL_v4_{kind}.json", [row(f"{kind}_{number}") for number in range(4)])
    for kind in ("simple_java", "simple_javascript", "multi_turn_base", "memory", "format_sensitivity"):
        category(folder, f"BFCL_v4_{kind}.json", ["not looked at"])
    return folder


def test_a_folder_is_read_and_what_cannot_be_judged_is_left_out(tmp_path: Path) -> None:
    env = make(ENV, path=str(published(tmp_path)))
    tasks = env.tasks("test")
    assert (len(tasks), len(env.tasks("train"))) == (36, 0)
    first = [tasks[index].data["problem"].category for index in range(9)]
    kinds = ("simple", "multiple", "parallel", "parallel_multiple", "irrelevance")
    assert sorted(first) == sorted((*kinds, "live_simple", "live_multiple", "live_irrelevance", "live_relevance"))
    assert tasks.by_id("test:simple_python_0").level == 1
    assert tasks.by_id("test:live_multiple_3").level == 2
    observation, info = env.reset(seed=0)  # there are no tasks for training, so it draws one of these
    assert info["task"]["split"] == "test" and observation


def test_categories_are_chosen_by_name(tmp_path: Path) -> None:
    published(tmp_path)
    env = make(ENV, path=str(tmp_path), categories=["simple_python", "live_relevance"])
    assert {task.data["problem"].category for task in list(env.tasks("test"))} == {"simple", "live_relevance"}  # type: ignore[call-overload]


def test_files_are_named_one_by_one_also_gzipped_and_as_paths(tmp_path: Path) -> None:
    one = category(tmp_path, "BFCL_v3_simple.json", [row("simple_0")], [answer("simple_0")])
    two = category(tmp_path, "parallel.jsonl.gz", [row("p")], [answer("p")])
    assert len(make(ENV, path=[str(one), str(two)]).tasks("test")) == 2
    assert len(make(ENV, path=one).tasks("test")) == 1


def test_a_file_on_the_hub_has_its_answers_beside_it_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    category(tmp_path, "BFCL_v3_simple.json", [row("simple_0")], [answer("simple_0")])
    asked = []

    def download(repository: str, file: str, *, repo_type: str) -> str:
        asked.append((repository, file, repo_type))
        return str(tmp_path / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert len(make(ENV, path="hf://datasets/owner/name/BFCL_v3_simple.json").tasks("test")) == 1
    files = {("owner/name", file, "dataset") for file in ("BFCL_v3_simple.json", "possible_answer/BFCL_v3_simple.json")}
    assert set(asked) == files


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    file = category(tmp_path, "irrelevance.jsonl", [row("a")])
    assert len(read_problems(str(file), None)) == 1
    category(tmp_path, "irrelevance.jsonl", [row("a"), row("b")])
    assert len(read_problems(str(file), None)) == 2


def test_questions_may_be_a_text_or_messages_with_a_system_prompt(tmp_path: Path) -> None:
    plain = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Go."}]
    rows = [row("a", question="Go."), row("b", question=plain), row("c", question=[plain])]
    file = str(category(tmp_path, "irrelevance.jsonl", rows))
    said = [[message.text for message in problem.messages] for problem in read_problems(file, None)]
    assert said == [["Go."], ["Be brief.", "Go."], ["Be brief.", "Go."]]
    tasks = make(ENV, path=file, system_prompt="Call functions.").tasks("test")
    shown = [[message.text for message in tasks[index].messages] for index in range(3)]
    both = ["Call functions.\n\nBe brief.", "Go."]
    assert shown == [["Call functions.", "Go."], both, both]


def test_the_part_for_training_is_chosen_by_the_question(tmp_path: Path) -> None:
    names = [f"i{number}" for number in range(200)]
    file = str(category(tmp_path, "irrelevance.jsonl", [row(name) for name in names]))
    env, same = make(ENV, path=file, train_part=0.3), make(ENV, path=file, train_part=0.3)
    train = {env.tasks("train")[index].id for index in range(len(env.tasks("train")))}
    assert 40 < len(train) < 80 and len(train) + len(env.tasks("test")) == 200
    assert train == {same.tasks("train")[index].id for index in range(len(train))}
    larger = make(ENV, path=file, train_part=0.6).tasks("train")
    assert train < {larger[index].id for index in range(len(larger))}


WRONG_ROWS = [
    ("{", "line 1: not JSON"),
    ("[1]", "line 1: expected an object a line"),
    (row(""), "line 1: 'id' must be a text"),
    ({"id": "a", "question": "x"}, "line 1: there is no key 'function'"),
    (row("a", question=[]), "line 1: 'question' must be a list of one turn"),
    (row("a", question=[[{"role": "user"}], [{"role": "user"}]]), "line 1: a question of 2 turns; its calls are exec"),
    (row("a", question=[[{"role": "assistant", "content": "x"}]]), "the last one the user's"),
    (row("a", function="f"), "line 1: 'function' must be a list of objects"),
    (row("a", function=[{"name": "a b", "parameters": PARAMETERS}]), "line 1: function name 'a b' must be 1 to 64"),
    (row("a", function=[FUNCTION, {**FUNCTION, "name": "math_double"}]), "two functions are called 'math_double'"),
    (row("a", function=[{"name": "f", "parameters": {"properties": [1]}}]), "function 'f': 'parameters' must be"),
    (row("a", function=[{"name": "f", "parameters": {"required": "a"}}]), "function 'f': 'required' must be a list"),
    (
        row("a", function=[{"name": "f", "parameters": {"properties": {"x": {"type": "integr"}}}}]),
        "function 'f', parameter 'x': the type 'integr' is unknown; did you mean 'integer'",
    ),
    (row("a", function=[{"name": "f", "parameters": {"properties": {"x": {}}}}]), "parameter 'x': there is no 'type'"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "said"), WRONG_ROWS)
def test_what_is_wrong_with_a_task_is_one_line(tmp_path: Path, wrong: Any, said: str) -> None:
    file = category(tmp_path, "irrelevance.jsonl", [wrong])
    with pytest.raises(ConfigError) as error:
        make(ENV, path=str(file))
    assert said in str(error.value) and str(file) in str(error.value) and "\n" not in str(error.value)


WRONG_ANSWERS = [
    ([answer("b")], "simple.jsonl', line 2: ", "has no answer to 'a'"),
    ([answer("a"), answer("a")], "possible_answer/simple.jsonl', line 2: the id 'a' is also that of", "line 1"),
    ([{"id": "a"}], "possible_answer/simple.jsonl', line 1: ", "there is no key 'ground_truth'"),
    ([answer("a", ground_truth=[])], "line 1", "'ground_truth' must be a list of calls"),
    ([answer("a", ground_truth=[{"f": {}, "g": {}}])], "line 1", "a call must be an object"),
    ([answer("a", ground_truth=[{"math.dubble": {}}])], "line 1", "not offered; did you mean 'math.double'"),
    ([answer("a", ground_truth=[{"math.double": {"a": 1}}])], "line 1", "the values of 'a' must be a list"),
    (None, "simple.jsonl'", "its answers are missing; there is no "),
]  # fmt: skip


@pytest.mark.parametrize(("answers", "place", "said"), WRONG_ANSWERS)
def test_what_is_wrong_with_answers_is_one_line(
    tmp_path: Path, answers: list[Any] | None, place: str, said: str
) -> None:
    file = category(tmp_path, "simple.jsonl", ["", row("a")], answers)
    with pytest.raises(ConfigError) as error:
        make(ENV, path=str(file))
    assert place in str(error.value) and said in str(error.value) and "\n" not in str(error.value)


def test_without_functions_only_silence_can_be_right(tmp_path: Path) -> None:
    env = make(ENV, path=str(category(tmp_path, "irrelevance.jsonl", [row("a", function=[])])))
    assert env.reset(seed=0)[1]["tools"] == []
    with pytest.raises(ConfigError, match=r"live_relevance.jsonl', line 1: 'function' is empty"):
        make(ENV, path=str(category(tmp_path, "live_relevance.jsonl", [row("a", function=[])])))


def test_an_id_is_there_once_in_one_file_and_in_all(tmp_path: Path) -> None:
    category(tmp_path, "irrelevance.jsonl", [row("a"), row("b"), row("a")])
    with pytest.raises(ConfigError, match=r"irrelevance.jsonl', line 3: the id 'a' is also that of .*line 1"):
        make(ENV, path=str(tmp_path))
    category(tmp_path, "irrelevance.jsonl", [row("a")])
    category(tmp_path, "live_irrelevance.jsonl", [row("a")])
    with pytest.raises(ConfigError, match=r"live_irrelevance.jsonl', line 1: the id 'a' is also that of .*line 1"):
        make(ENV, path=str(tmp_path))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"path": "BFCL_v4_simple_java.json"}, "'java' cannot be judged here: its arguments are Java source"),
        ({"path": "BFCL_v4_simple_javascript.json"}, "its arguments are JavaScript source"),
        ({"path": "BFCL_v4_multi_turn_base.json"}, "'multi_turn_base' cannot be judged here: its calls"),
        ({"path": "BFCL_v4_memory.json"}, "memory stores"),
        ({"path": "BFCL_v4_smple.json"}, "'smple' is no category; did you mean 'simple'"),
        ({"path": "simple.json"}, "there is no possible_answer/simple.json"),
        ({"path": "irrelevance.json"}, "there is no such file"),
        ({"path": "/nowhere/data"}, "path='/nowhere/data': there is no such file or folder"),
        ({"path": ["/"]}, "path='/': is a folder, which is given alone"),
        ({"path": []}, "names no file"),
        ({"categories": []}, "categories=[] names no category"),
        ({"categories": ["multi_turn_base"]}, "categories: the category 'multi_turn_base' cannot be judged here"),
        ({"categories": ["paralel"]}, "categories: 'paralel' is no category; did you mean 'parallel'"),
        ({"categories": ["live_simple"]}, "has no file of 'live_simple'; did you mean 'simple'"),
        ({"train_part": 1.5}, "train_part=1.5 must be 0 to 1"),
        ({"paht": "x"}, "did you mean 'path'"),
    ],
)  # fmt: skip
def test_wrong_options_are_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        make(ENV, **options)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_folder_without_a_category_says_what_it_looks_for(tmp_path: Path) -> None:
    write(tmp_path / "notes.json", [{}])
    with pytest.raises(ConfigError, match=r"no file of a category, such as BFCL_v4_simple_python\.json"):
        make(ENV, path=str(tmp_path))


def test_types_become_those_of_json_schema(tmp_path: Path) -> None:
    properties = {
        "d": {"type": "dict", "properties": {"f": {"type": "float", "optional": True}}, "required": ["f"]},
        "t": {"type": "tuple", "items": {"type": "float"}, "description": "Two numbers."},
        "a": {"type": "any", "default": "x", "required": True},
        "l": {"type": "array", "items": {"type": "dict", "properties": {"b": {"type": "boolean"}}}},
        "e": {"type": "string", "enum": ["u", "v"]},
    }
    function = {"name": "x.y", "description": "Says.", "parameters": {"type": "dict", "properties": properties}}
    file = category(tmp_path, "irrelevance.jsonl", [row("a", function=[function])])
    _, info = make(ENV, path=str(file)).reset(seed=0)
    assert info["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "x_y",
                "description": "Says.",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "d": {"type": "object", "properties": {"f": {"type": "number"}}, "required": ["f"]},
                        "t": {"type": "array", "items": {"type": "number"}, "description": "Two numbers."},
                        "a": {"type": "string", "default": "x"},
                        "l": {
                            "type": "array",
                            "items": {"type": "object", "properties": {"b": {"type": "boolean"}}},
                        },
                        "e": {"type": "string", "enum": ["u", "v"]},
                    },
                    "required": [],
                },
            },
        }
    ]
