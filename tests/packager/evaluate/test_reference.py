from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rewriting import rewrite

from edgeslm.errors import InvalidOption, Unsupported
from edgeslm.gguf.reader import Header, read_header
from edgeslm.llama.model import Model
from edgeslm.packager.evaluate import evaluate, evaluate_against, reference
from edgeslm.packager.evaluate.divergence import TokenFigures
from edgeslm.packager.evaluate.reference import Reference, packed, unpacked
from edgeslm.packager.evaluate.store import Store
from edgeslm.testing import tiny_gguf

WORDS = "the king and the queen went in an hour to the inn; then they sang again. "


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(WORDS * 12)
    return path


@pytest.fixture(scope="module")
def noisy(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rewrite(tiny_model, tmp_path_factory.mktemp("noisy") / "noisy.gguf", noise=0.1)


def _open(path: Path, text: Path, folder: Path, **options: int) -> Reference:
    return Reference(path, text, store=Store(folder), length=64, **options)


def _figures(opened: Reference, path: Path) -> TokenFigures:
    with Model(path) as model:
        return opened.figures(model)


def test_a_model_is_its_own_equal(tiny_model: Path, text: Path, tmp_path: Path) -> None:
    card = evaluate_against(_open(tiny_model, text, tmp_path), tiny_model)
    assert card.kl_divergence is not None
    assert card.kl_divergence.maximum < 1e-5
    assert card.same_top_1 == 1
    assert card.perplexity_ratio == pytest.approx(1, abs=1e-4)
    assert card.tokens == (card.chunks or 0) * 31


def test_more_noise_is_farther_away(
    tiny_model: Path, noisy: Path, text: Path, tmp_path: Path
) -> None:
    opened = _open(tiny_model, text, tmp_path / "store")
    means = []
    for noise in (0.01, 0.05, 0.2):
        path = rewrite(tiny_model, tmp_path / f"{noise}.gguf", noise=noise)
        card = evaluate_against(opened, path)
        assert card.kl_divergence is not None
        means.append(card.kl_divergence.mean)
    assert 0 < means[0] < means[1] < means[2]


def test_the_figures_are_those_of_the_logits_themselves(
    tiny_model: Path, noisy: Path, text: Path, tmp_path: Path
) -> None:
    from edgeslm.packager.evaluate.chunks import ChunkReader
    from edgeslm.packager.evaluate.divergence import compare

    opened = _open(tiny_model, text, tmp_path, chunks=1)
    found = _figures(opened, noisy)
    rows = []
    for path in (tiny_model, noisy):
        with Model(path) as model, ChunkReader(model, 64, 1) as reader:
            part = next(iter(reader.rows(opened.chunks[0])))
            rows.append((part.logits.copy(), part.targets))
    expected = compare(rows[0][0], rows[1][0], rows[1][1])
    np.testing.assert_allclose(found.divergence, expected.divergence, atol=1e-4)
    np.testing.assert_allclose(found.reference_surprise, expected.reference_surprise, atol=1e-3)


def test_the_logits_need_not_all_be_there_at_once(
    tiny_model: Path, noisy: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = _open(tiny_model, text, tmp_path)
    expected = _figures(opened, noisy)
    monkeypatch.setattr(reference, "_LOGITS_AT_ONCE", 1)
    monkeypatch.setattr("edgeslm.packager.evaluate.chunks._MOST_ROWS", 16)
    found = _figures(opened, noisy)
    np.testing.assert_allclose(found.divergence, expected.divergence, atol=1e-4)
    monkeypatch.setattr(reference, "_LOGITS_AT_ONCE", 270 * 20)
    np.testing.assert_allclose(_figures(opened, noisy).divergence, found.divergence, atol=1e-6)


def _times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in folder.glob("*.npz")}


def test_results_are_kept_small_and_used_again(
    tiny_model: Path, noisy: Path, text: Path, tmp_path: Path
) -> None:
    first = _figures(_open(tiny_model, text, tmp_path), noisy)
    kept = _times(tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.glob("*.npz")) < len(kept) * 31 * 32 * 5
    again = _figures(_open(tiny_model, text, tmp_path), noisy)
    np.testing.assert_array_equal(first.divergence, again.divergence)
    assert _times(tmp_path) == kept


def test_more_chunks_only_add(tiny_model: Path, text: Path, tmp_path: Path) -> None:
    _open(tiny_model, text, tmp_path, chunks=2)
    kept = _times(tmp_path)
    assert len(kept) == 2
    opened = _open(tiny_model, text, tmp_path)
    assert len(_times(tmp_path)) == len(opened.chunks) > 2
    assert kept.items() <= _times(tmp_path).items()


def test_another_model_has_results_of_its_own(
    tiny_model: Path, noisy: Path, text: Path, tmp_path: Path
) -> None:
    _open(tiny_model, text, tmp_path, chunks=2)
    _open(noisy, text, tmp_path, chunks=2)
    assert len(_times(tmp_path)) == 4


def test_results_that_went_or_broke_are_computed_again(
    tiny_model: Path, noisy: Path, text: Path, tmp_path: Path
) -> None:
    opened = _open(tiny_model, text, tmp_path)
    expected = _figures(opened, noisy)
    gone, broken, other, *_ = sorted(tmp_path.glob("*.npz"))
    gone.unlink()
    broken.write_bytes(b"nonsense")
    np.savez(other, hidden=np.zeros((3, 4), np.float32))
    np.testing.assert_array_equal(_figures(opened, noisy).divergence, expected.divergence)


def test_an_interrupted_run_goes_on(
    tiny_model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, count = Store.save, 0

    def interrupted(store: Store, key: str, arrays: object) -> None:
        nonlocal count
        count += 1
        if count == 4:
            raise KeyboardInterrupt
        save(store, key, arrays)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Store, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            _open(tiny_model, text, tmp_path)
    kept = _times(tmp_path)
    assert len(kept) == 3
    _open(tiny_model, text, tmp_path)
    assert kept.items() < _times(tmp_path).items()


def test_a_model_with_more_after_its_matrix(text: Path, tmp_path: Path) -> None:
    """Its logits cannot be computed from hidden states, so they are kept themselves."""
    plain = tiny_gguf(tmp_path / "plain.gguf", architecture="gemma3", context_length=64)
    fields = {"gemma3.final_logit_softcapping": 2.0}
    capped = rewrite(plain, tmp_path / "capped.gguf", fields=fields)
    other = rewrite(plain, tmp_path / "other.gguf", fields=fields, noise=0.1)
    store = tmp_path / "store"
    opened = _open(capped, text, store)
    with np.load(next(iter(store.glob("*.npz")))) as arrays:
        assert sorted(arrays.files) == ["codes", "least", "scale"]
    same = _figures(opened, capped)
    assert np.abs(same.divergence).max() < 1e-6
    assert _figures(opened, other).divergence.mean() > 1e-4


def test_too_much_to_keep_is_refused(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tiny_gguf(tmp_path / "plain.gguf", architecture="gemma3", context_length=64)
    capped = rewrite(
        plain, tmp_path / "capped.gguf", fields={"gemma3.final_logit_softcapping": 2.0}
    )
    monkeypatch.setattr(reference, "MOST_BYTES", 50_000)
    with pytest.raises(InvalidOption, match="on disk") as caught:
        _open(capped, text, tmp_path / "store")
    most = int((caught.value.hint or "").split("--chunks ")[1].split()[0])
    assert _open(capped, text, tmp_path / "store", chunks=most)


def test_hidden_states_take_room_too(
    tiny_model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "MOST_BYTES", 1000)
    with pytest.raises(InvalidOption, match="on disk"):
        _open(tiny_model, text, tmp_path / "store")


def test_packing_loses_next_to_nothing() -> None:
    logits = np.random.default_rng(0).normal(-3, 9, (5, 3000)).astype(np.float32)
    logits[4] = 1.5
    arrays = packed(logits)
    assert arrays["codes"].nbytes == logits.nbytes / 2
    np.testing.assert_allclose(unpacked(arrays), logits, atol=1e-3)
    assert (unpacked(arrays).argmax(1) == logits.argmax(1)).all()


def test_vocabularies_must_be_the_same(tiny_model: Path, text: Path, tmp_path: Path) -> None:
    with Model(tiny_model) as model:
        tokens = model.header.get("tokenizer.ggml.tokens")
    assert isinstance(tokens, tuple)
    other = rewrite(
        tiny_model,
        tmp_path / "other.gguf",
        fields={"tokenizer.ggml.tokens": ("<|nothing|>", *tokens[1:])},
    )
    opened = _open(tiny_model, text, tmp_path / "store", chunks=1)
    with pytest.raises(Unsupported, match=r"token 0 is '<\|nothing\|>' against"):
        _figures(opened, other)


def test_sampled_text_has_sixteen_chunks(tiny_model: Path, tmp_path: Path) -> None:
    opened = Reference(tiny_model, store=Store(tmp_path), length=32)
    assert opened.text.source == "sampled"
    assert len(opened.chunks) == 16
    assert len(Reference(tiny_model, store=Store(tmp_path), length=32, chunks=3).chunks) == 3


def test_a_text_without_a_reference_gives_perplexity_alone(
    tiny_model: Path, text: Path, tmp_path: Path
) -> None:
    alone = evaluate(tiny_model, text=text, context_length=64)
    both = evaluate_against(_open(tiny_model, text, tmp_path), tiny_model)
    assert alone.kl_divergence is None
    assert alone.reference is None
    assert alone.perplexity is not None
    assert both.perplexity is not None
    assert alone.perplexity.value == pytest.approx(both.perplexity.value)
    assert (alone.tokens, alone.chunks) == (both.tokens, both.chunks)


@pytest.mark.parametrize(
    "options", [{}, {"text": True, "context_length": 4}, {"text": True, "chunks": 0}]
)
def test_options_that_make_no_sense(
    tiny_model: Path, text: Path, options: dict[str, object]
) -> None:
    if options.get("text"):
        options = {**options, "text": text}
    with pytest.raises(InvalidOption):
        evaluate(tiny_model, **options)  # type: ignore[arg-type]


def test_each_file_s_header_is_read_once(
    tiny_model: Path, noisy: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESLM_CACHE", str(tmp_path))
    read: list[Path] = []

    def counted(path: Path) -> Header:
        read.append(path)
        return read_header(path)

    for module in ("gguf.validation", "llama.model"):
        monkeypatch.setattr(f"edgeslm.{module}.read_header", counted)
    evaluate(noisy, reference=tiny_model, text=text, context_length=64)
    assert sorted(read) == sorted([noisy, tiny_model])
