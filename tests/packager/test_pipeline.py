import pytest

from edgeslm.bundle.model_path import find_model
from edgeslm.bundle.verification import verify_bundle
from edgeslm.errors import EdgeslmError, InvalidOption, NotFound, OutputFailure
from edgeslm.estimate.prediction import predict
from edgeslm.gguf.reader import read_header
from edgeslm.packager import pipeline
from edgeslm.packager.pipeline import pack
from edgeslm.packager.quantize import Effort, Wishes, quantize
from edgeslm.records import to_json
from edgeslm.targets.loading import load_target
from edgeslm.testing import tiny_gguf

QUICK = Effort(quick=True)


@pytest.fixture
def target():
    return load_target("rpi5-4gb")


@pytest.fixture
def model(tmp_path):
    return tiny_gguf(tmp_path / "tiny.gguf", weight_type="F16")


def test_float_weights_are_quantized_by_default(tmp_path, model, target):
    result = pack(model, tmp_path / "packed", target=target)
    assert result.contents == verify_bundle(tmp_path / "packed").contents
    assert result.contents.prediction == to_json(result.prediction)
    assert result.prediction.target == "rpi5-4gb"
    assert result.contents.model.file_bytes < model.stat().st_size
    assert {path.name for path in tmp_path.iterdir()} == {"packed", "tiny.gguf"}


def test_a_quantized_model_is_kept_as_it_is(tmp_path, model, target):
    small = quantize(model, tmp_path / "small.gguf", file_type="Q8_0").path
    result = pack(small, tmp_path / "packed", target=target)
    assert find_model(tmp_path / "packed").read_bytes() == small.read_bytes()
    assert result.warnings == ()


def test_what_is_asked_for_is_done(tmp_path, model, target):
    result = pack(
        model,
        tmp_path / "packed",
        target=target,
        wishes=Wishes(bits=6),
        effort=QUICK,
        context_length=128,
    )
    assert result.contents.model.bits_per_weight <= 6
    assert result.prediction.context_length == 128
    smaller = pack(tmp_path / "packed", tmp_path / "again", target=target, file_type="Q4_0")
    assert smaller.contents.model.file_bytes < result.contents.model.file_bytes
    assert any("quantized already" in warning for warning in smaller.warnings)


def test_a_checkpoint_is_converted_first(tmp_path, target, monkeypatch):
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")
    monkeypatch.setattr(pipeline, "convert", lambda _, output: tiny_gguf(output))
    result = pack(
        checkpoint,
        tmp_path / "packed",
        target=target,
        wishes=Wishes(size_bytes=60_000),
        effort=QUICK,
    )
    assert result.contents.model.file_bytes <= 60_000
    assert {path.name for path in tmp_path.iterdir()} == {"packed", "checkpoint"}


def test_a_failure_leaves_nothing(tmp_path, model, target):
    before = set(tmp_path.iterdir())
    small, usual = Wishes(bits=1.5), Wishes(bits=5)
    for given in ({"wishes": small}, {"wishes": usual, "file_type": "Q8_0"}, {"file_type": "Q9"}):
        with pytest.raises(InvalidOption):
            pack(model, tmp_path / "packed", target=target, **given)
    with pytest.raises(NotFound):
        pack(tmp_path / "none.gguf", tmp_path / "packed", target=target)
    with pytest.raises(OutputFailure):
        pack(model, tmp_path / "no" / "packed", target=target)
    assert set(tmp_path.iterdir()) == before


def test_a_bundle_appears_signed_or_not_at_all(tmp_path, model, target):
    class Lost:
        def public_key(self):
            raise InvalidOption("gone")

    with pytest.raises(InvalidOption, match="gone"):
        pack(model, tmp_path / "packed", target=target, key=Lost())
    assert not (tmp_path / "packed").exists()


def test_names_too_long_for_the_disk(tmp_path, model, target):
    long = tmp_path / ("x" * 300)
    for source, output in ((long, tmp_path / "packed"), (model, long)):
        with pytest.raises(EdgeslmError, match="too long"):
            pack(source, output, target=target)


def test_the_target_says_what_is_planned_for(tmp_path):
    target = load_target("rpi-zero-2w")
    model = tiny_gguf(tmp_path / "tiny.gguf", head_width=32)
    small = quantize(model, tmp_path / "small.gguf", file_type="Q8_0").path
    planned = pack(small, tmp_path / "packed", target=target).prediction
    assert planned == predict(read_header(small), target, context_length=1024, kv_type="Q8_0")


def test_a_foreign_directory_is_refused_before_any_work(tmp_path, model, target, monkeypatch):
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "precious").touch()
    monkeypatch.setattr(pipeline, "quantize", pytest.fail)
    with pytest.raises(OutputFailure, match="packed"):
        pack(model, tmp_path / "packed", target=target)


def test_a_system_prompt_is_packed_with_its_state(tmp_path, model, target):
    from edgeslm.bundle.model_path import find_package
    from edgeslm.llama.context import ContextOptions
    from edgeslm.llama.model import Model
    from edgeslm.llama.sampler import SamplingOptions
    from edgeslm.runtime.baking import Baker
    from edgeslm.runtime.generation import GenerationOptions
    from edgeslm.runtime.messages import Message
    from edgeslm.runtime.prompt import PromptEncoder
    from edgeslm.runtime.prompt_states import PromptStates
    from edgeslm.runtime.session import Session

    system = "You are a helper on a small board and answer in one sentence. " * 2
    baker = Baker(1)
    made = [
        pack(
            model,
            tmp_path / name,
            target=target,
            context_length=256,
            kv_type="F16",
            system=system,
            baker=baker,
        )
        for name in ("packed", "again")
    ]
    assert made[0].contents == verify_bundle(tmp_path / "packed").contents
    assert made[0].contents == made[1].contents
    assert {path.name for path in tmp_path.iterdir()} == {"packed", "again", "tiny.gguf"}
    package = find_package(tmp_path / "packed")
    assert (package.system, package.kv_type, len(package.states)) == (system, "F16", 1)
    options = ContextOptions(length=256, threads=1)
    answers = []
    for given in ((), package.states):
        with (
            Model(package.model) as opened,
            PromptStates(None, given=given) as states,
            Session(opened, options, states) as session,
        ):
            encoder = PromptEncoder(opened)
            messages = [Message("system", system), Message("user", "Who are you?")]
            tokens = encoder.encode_messages(messages)
            keep = encoder.beginning(tokens, messages)
            greedy = GenerationOptions(6, sampling=SamplingOptions(temperature=0), keep=keep)
            answers.append(session.generate(tokens, greedy))
    assert [bool(answer.reused_tokens) for answer in answers] == [False, True]
    assert answers[0].tokens == answers[1].tokens
    (state,) = package.states
    state.write_bytes(state.read_bytes()[:-1] + b"?")
    with pytest.raises(EdgeslmError, match=state.name):
        verify_bundle(tmp_path / "packed")


def test_a_short_system_prompt_needs_no_state(tmp_path, model, target):
    from edgeslm.runtime.baking import Baker

    result = pack(model, tmp_path / "packed", target=target, system="Hi.", baker=Baker(1))
    assert result.contents.prompt.system == "Hi."
    assert result.contents.prompt.state is None
    assert result.contents == verify_bundle(tmp_path / "packed").contents


def test_a_system_prompt_needs_a_template_and_room(tmp_path, model, target):
    from edgeslm.runtime.baking import Baker

    baker = Baker(1)
    with pytest.raises(EdgeslmError, match="context of 64"):
        pack(
            model,
            tmp_path / "packed",
            target=target,
            context_length=64,
            system="word " * 100,
            baker=baker,
        )
    data = model.read_bytes()
    model.write_bytes(data.replace(b"tokenizer.chat_template", b"tokenizer.chat_templ_te"))
    with pytest.raises(EdgeslmError, match="no chat template"):
        pack(model, tmp_path / "packed", target=target, system="Be kind.", baker=baker)
    assert not (tmp_path / "packed").exists()


def test_what_a_model_cannot_be_told_is_known_before_it_is_quantized(
    tmp_path, model, target, monkeypatch
):
    from edgeslm.runtime.baking import Baker

    def never(*_arguments, **_more):
        raise AssertionError

    monkeypatch.setattr(pipeline, "quantize", never)
    with pytest.raises(EdgeslmError, match="context of 64"):
        pack(
            model,
            tmp_path / "packed",
            target=target,
            context_length=64,
            system="word " * 100,
            baker=Baker(1),
        )


def test_the_cache_is_of_a_type_that_the_model_can_hold(tmp_path, model):
    from edgeslm.runtime.baking import Baker

    board = load_target("rpi-zero-2w")
    assert board.defaults.kv_type == "Q8_0"  # which heads of 16 numbers cannot be
    result = pack(model, tmp_path / "packed", target=board, system="Be kind.", baker=Baker(1))
    assert result.contents.prompt.kv_type == "F16"
    planned = predict(read_header(model), board, kv_type="F16").memory.kv_bytes
    assert result.prediction.memory.kv_bytes == planned
